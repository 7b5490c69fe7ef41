#include "server/http/router.h"

#include <exception>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/http/api_error.h"
#include "spdlog/spdlog.h"

namespace shoal {
namespace {

// The tail if `path` is one of the route's, else nothing.
std::optional<std::string_view> MatchPath(const Route& route,
                                          std::string_view path) {
  if (!route.path.ends_with("/*")) {
    if (route.path == path) return std::string_view();
    return std::nullopt;
  }
  const std::string_view prefix =
      std::string_view(route.path).substr(0, route.path.size() - 1);
  if (path.size() > prefix.size() && path.starts_with(prefix)) {
    return path.substr(prefix.size());
  }
  return std::nullopt;
}

bool Serves(const Route& route, std::string_view method) {
  return route.method == method || (route.method == "GET" && method == "HEAD");
}

}  // namespace

absl::StatusOr<Router::Match> Router::Find(std::string_view method,
                                           std::string_view path) const {
  bool path_known = false;
  for (const Route& route : routes_) {
    const auto tail = MatchPath(route, path);
    if (!tail) continue;
    if (Serves(route, method)) return Match{&route, *tail};
    path_known = true;
  }
  if (path_known) {
    return WithDetail(
        absl::UnimplementedError(absl::StrCat("Method ", PrintableText(method),
                                              " is not allowed here")),
        "", "method_not_allowed");
  }
  return WithDetail(
      absl::NotFoundError(absl::StrCat("Unknown path ", PrintableText(path))),
      "", "unknown_path");
}

std::string Router::Allow(std::string_view path) const {
  std::string allow;
  for (const Route& route : routes_) {
    if (!MatchPath(route, path)) continue;
    absl::StrAppend(&allow, allow.empty() ? "" : ", ", route.method,
                    route.method == "GET" ? ", HEAD" : "");
  }
  if (!allow.empty()) absl::StrAppend(&allow, ", OPTIONS");
  return allow;
}

Reply RunHandler(const Route& route, const HttpRequest& request) {
  try {
    return route.handler(request);
  } catch (const std::exception& e) {
    spdlog::error("http {} request_id={} handler threw: {}", request.path,
                  request.request_id, PrintableText(e.what()));
    return ApiError(absl::InternalError("handler threw"));
  }
}

}  // namespace shoal
