// What `shoal serve` can be told. Names and defaults of the flags stand in
// server/cli/serve.cc and the README.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/open_model.h"

namespace shoal {

struct TlsFiles {
  std::string certificate;  // PEM chain; empty: no TLS
  std::string key;          // PEM
  std::string client_ca;    // PEM; set: clients must show a certificate
};

struct ServeOptions {
  ModelOptions model;
  std::string grpc_address = "127.0.0.1:50051";
  std::string http_address = "127.0.0.1:8000";
  std::vector<std::string> served_model_names;  // empty: from the path
  std::string api_key_file;
  TlsFiles tls;  // both ports
  int drain_seconds = 30;
  EngineOptions engine;
  std::string log_format = "text";  // text, json
  std::string log_level = "info";
  std::string drift_baseline;        // file; empty: none
  int64_t max_body_bytes = 4 << 20;  // HTTP body and gRPC message
  int max_connections = 1024;        // HTTP
  // Origins of other sites whose pages may call the HTTP API; "*": any.
  std::vector<std::string> cors_allowed_origins;
};

}  // namespace shoal
