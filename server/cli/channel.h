// How the client commands reach a server.
#pragma once

#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"

namespace shoal {

struct ChannelOptions {
  std::string address = "127.0.0.1:50051";
  std::string tls_ca;        // PEM file; set: TLS with that root
  std::string api_key_file;  // first key in it is sent
};

// --address, --tls-ca, --api-key-file.
void AddChannelOptions(CLI::App* command, ChannelOptions* options);

// NotFound if a named file cannot be read.
absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(
    const ChannelOptions& options);

// Adds the API key, if there is one, to a call. NotFound as above.
absl::Status AddApiKey(const ChannelOptions& options,
                       grpc::ClientContext* context);

}  // namespace shoal
