// The TLS side of the HTTP port: TLS 1.2 and up, the certificate chain and key,
// and, where a client CA is named, certificates demanded of clients.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "boost/asio/ssl/context.hpp"
#include "server/options.h"

namespace shoal {

// InvalidArgument naming the file that cannot be used.
absl::StatusOr<std::unique_ptr<boost::asio::ssl::context>> MakeTlsContext(
    const TlsFiles& files);

}  // namespace shoal
