#include "server/http/tls_context.h"

#include "absl/strings/str_cat.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<boost::asio::ssl::context>> MakeTlsContext(
    const TlsFiles& files) {
  using Context = boost::asio::ssl::context;
  auto context = std::make_unique<Context>(Context::tls_server);
  context->set_options(Context::default_workarounds | Context::no_sslv2 |
                       Context::no_sslv3 | Context::no_tlsv1 |
                       Context::no_tlsv1_1 | Context::single_dh_use);
  boost::system::error_code ec;
  const auto error = [&](const std::string& file) {
    return absl::InvalidArgumentError(
        absl::StrCat("TLS file ", file, ": ", ec.message()));
  };
  context->use_certificate_chain_file(files.certificate, ec);
  if (ec) return error(files.certificate);
  context->use_private_key_file(files.key, Context::pem, ec);
  if (ec) return error(files.key);
  if (!files.client_ca.empty()) {
    context->load_verify_file(files.client_ca, ec);
    if (ec) return error(files.client_ca);
    context->set_verify_mode(boost::asio::ssl::verify_peer |
                             boost::asio::ssl::verify_fail_if_no_peer_cert);
  }
  return context;
}

}  // namespace shoal
