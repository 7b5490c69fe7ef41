// GrpcServer is the gRPC port: shoal.v1.Inference and Admin, grpc.health.v1 and
// server reflection (both open to all). Health follows the life cycle: "",
// "readiness" and "shoal.v1.Inference" are SERVING only while ready, "liveness"
// until nothing but a restart helps.
//
// Clients may ping as often as every second, with or without calls: long
// answers over NAT need it. Messages are bounded by max_message_bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/auth.h"
#include "server/generation.h"
#include "server/lifecycle.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/rpc/admin_service.h"

namespace shoal {

struct GrpcServerOptions {
  std::string address = "127.0.0.1:50051";  // host:port; port 0 picks one
  TlsFiles tls;
  int64_t max_message_bytes = 4 << 20;
  int worker_threads = 2;  // parse, tokenise, render
};

class GrpcServer {
 public:
  // Serves at once. InvalidArgument: TLS files. Unavailable: the port is taken
  // or may not be bound. What is passed must outlive the server.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const GrpcServerOptions& options, const AdminContext& admin,
      const ApiKeys& keys, ServerMetrics* metrics);

  virtual ~GrpcServer() = default;  // as Shutdown(now)

  // "127.0.0.1:50051", with the port that was bound.
  virtual const std::string& address() const = 0;
  // Refuses new calls; running ones may finish until `deadline`, then are cut.
  virtual void Shutdown(absl::Time deadline) = 0;
};

}  // namespace shoal
