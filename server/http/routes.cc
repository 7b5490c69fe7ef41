#include "server/http/routes.h"

#include <iterator>
#include <utility>

#include "server/http/json.h"

namespace shoal {
namespace {

HttpResponse StateResponse(Lifecycle::State state, bool good) {
  static constexpr const char* kNames[] = {"starting", "ready", "draining",
                                           "failed"};
  HttpResponse response;
  response.status = good ? 200 : 503;
  response.content_type = "application/json";
  response.body = DumpJson({{"status", kNames[static_cast<int>(state)]}});
  return response;
}

}  // namespace

std::vector<Route> StatusRoutes(Lifecycle& lifecycle, ServerMetrics& metrics) {
  const HttpHandler health = [&lifecycle](const HttpRequest&) {
    return StateResponse(lifecycle.state(), lifecycle.alive());
  };
  const HttpHandler ready = [&lifecycle](const HttpRequest&) {
    return StateResponse(lifecycle.state(), lifecycle.ready());
  };
  const HttpHandler scrape = [&metrics](const HttpRequest&) {
    HttpResponse response;
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    response.body = metrics.Render();
    return response;
  };
  const HttpHandler version = [](const HttpRequest&) {
    HttpResponse response;
    response.content_type = "application/json";
    response.body = DumpJson({{"version", SHOAL_VERSION}});
    return response;
  };
  return {{"GET", "/health", Access::kOpen, RunOn::kIo, health},
          {"GET", "/ready", Access::kOpen, RunOn::kIo, ready},
          {"GET", "/metrics", Access::kOpen, RunOn::kWorker, scrape},
          {"GET", "/version", Access::kOpen, RunOn::kIo, version}};
}

Router MakeRoutes(GenerationService& service, Lifecycle& lifecycle,
                  ServerMetrics& metrics) {
  std::vector<Route> routes;
  const auto add = [&](std::vector<Route> part) {
    std::move(part.begin(), part.end(), std::back_inserter(routes));
  };
  add(GenerationRoutes(service, lifecycle, metrics));
  add(ModelRoutes(service));
  add(StatusRoutes(lifecycle, metrics));
  add(PageRoutes());
  return Router(std::move(routes));
}

}  // namespace shoal
