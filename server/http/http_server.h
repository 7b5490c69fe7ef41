// HttpServer is the HTTP port: it accepts, keeps limits and hands requests to
// the router's handlers. What is served, and to whom, stands in the router.
//
// Limits: connections are capped (and at half of the process's descriptors);
// a few more are taken for open routes only, so that health checks and scrapes
// get through a full house. A request's head is at most 16 KiB and must arrive,
// with its body, within request_timeout. A response that the peer does not
// read for write_timeout is given up, and its generation cancelled.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/auth.h"
#include "server/http/router.h"
#include "server/options.h"

namespace shoal {

struct HttpServerOptions {
  std::string address = "127.0.0.1:8000";  // host:port; port 0 picks one
  TlsFiles tls;
  int64_t max_body_bytes = 4 << 20;
  int max_connections = 1024;
  int io_threads = 2;      // sockets; never blocked
  int worker_threads = 2;  // RunOn::kWorker handlers
  absl::Duration request_timeout = absl::Seconds(30);
  absl::Duration idle_timeout = absl::Seconds(75);  // between two requests
  absl::Duration write_timeout = absl::Seconds(60);
  // Origins of other sites whose scripts may call the API ("*": any); empty:
  // none, so that only the chat page's own origin can.
  std::vector<std::string> cors_allowed_origins;
};

class HttpServer {
 public:
  // Binds, then serves from threads of its own. `keys` must outlive the server.
  // InvalidArgument: address or TLS files. Unavailable: the port is taken or
  // may not be bound, naming it.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(
      const HttpServerOptions& options, Router router, const ApiKeys& keys);

  virtual ~HttpServer() = default;  // as Shutdown()

  // "127.0.0.1:8000", with the port that was bound.
  virtual std::string address() const = 0;
  // "http://127.0.0.1:8000" or "https://...".
  virtual std::string url() const = 0;
  // Closes the listening socket and idle connections. Running responses finish
  // and close their connection.
  virtual void StopAccepting() = 0;
  // Open connections now.
  virtual int num_connections() const = 0;
  // Cuts every connection, cancels what they wait for and joins the threads.
  virtual void Shutdown() = 0;
};

}  // namespace shoal
