// Router is the table of everything the HTTP port serves. Each entry states its
// method, who may call it and where it runs; there is no way to add one without
// that, and what is not in the table is refused. Built once, then read only:
// thread safe.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/http/http_message.h"

namespace shoal {

enum class Access {
  kOpen,  // anybody who reaches the port
  kKey,   // needs an API key where the server has any
};
enum class RunOn {
  kIo,      // answers at once
  kWorker,  // parses, tokenises or renders: milliseconds
};
using HttpHandler = std::function<Reply(const HttpRequest&)>;

struct Route {
  std::string method;  // "GET" (answers HEAD too) or "POST" (takes JSON)
  std::string path;    // exact, or "/prefix/*"
  Access access;
  RunOn run_on;
  HttpHandler handler;
};

class Router {
 public:
  explicit Router(std::vector<Route> routes) : routes_(std::move(routes)) {}

  struct Match {
    const Route* route = nullptr;
    std::string_view tail;  // of a "/prefix/*" route; points into `path`
  };
  // NotFound for an unknown path; Unimplemented where the path exists but not
  // with this method.
  absl::StatusOr<Match> Find(std::string_view method,
                             std::string_view path) const;
  // "GET, HEAD, OPTIONS": the methods of a path; empty for an unknown one.
  std::string Allow(std::string_view path) const;
  const std::vector<Route>& routes() const { return routes_; }

 private:
  std::vector<Route> routes_;
};

// Runs the route's handler; what a library throws becomes a logged 500.
Reply RunHandler(const Route& route, const HttpRequest& request);

}  // namespace shoal
