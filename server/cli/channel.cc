#include "server/cli/channel.h"

#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  if (!file) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  }
  return content.str();
}

}  // namespace

void AddChannelOptions(CLI::App* command, ChannelOptions* options) {
  command
      ->add_option("--address", options->address, "The server's gRPC address")
      ->capture_default_str();
  command->add_option("--tls-ca", options->tls_ca,
                      "Use TLS and trust this PEM file");
  command->add_option("--api-key-file", options->api_key_file,
                      "Send the first key of this file");
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(
    const ChannelOptions& options) {
  if (options.tls_ca.empty()) {
    return grpc::CreateChannel(options.address,
                               grpc::InsecureChannelCredentials());
  }
  absl::StatusOr<std::string> ca = ReadFile(options.tls_ca);
  if (!ca.ok()) return ca.status();
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = *std::move(ca);
  return grpc::CreateChannel(options.address, grpc::SslCredentials(ssl));
}

absl::Status AddApiKey(const ChannelOptions& options,
                       grpc::ClientContext* context) {
  if (options.api_key_file.empty()) return absl::OkStatus();
  absl::StatusOr<std::string> content = ReadFile(options.api_key_file);
  if (!content.ok()) return content.status();
  std::istringstream lines(*content);
  std::string line;
  while (std::getline(lines, line)) {
    if (line.empty() || line[0] == '#') continue;
    const size_t colon = line.find(':');
    context->AddMetadata(
        "authorization",
        "Bearer " +
            (colon == std::string::npos ? line : line.substr(colon + 1)));
    return absl::OkStatus();
  }
  return absl::NotFoundError(
      absl::StrCat(options.api_key_file, ": holds no key"));
}

}  // namespace shoal
