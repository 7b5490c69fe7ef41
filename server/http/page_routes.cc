#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/http/page_files.h"
#include "server/http/routes.h"

namespace shoal {
namespace {

// The page loads nothing from elsewhere and runs no script but its own.
constexpr char kContentSecurityPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'none'";

std::string ContentType(std::string_view name) {
  if (name.ends_with(".html")) return "text/html; charset=utf-8";
  if (name.ends_with(".css")) return "text/css; charset=utf-8";
  if (name.ends_with(".js")) return "text/javascript; charset=utf-8";
  if (name.ends_with(".svg")) return "image/svg+xml";
  return "application/octet-stream";
}

// FNV-1a: tells versions of a file apart.
std::string EntityTag(std::string_view content) {
  uint64_t hash = 0xcbf29ce484222325;
  for (unsigned char c : content) hash = (hash ^ c) * 0x100000001b3;
  return absl::StrFormat("\"%016x\"", hash);
}

Route FileRoute(const std::string& path, const PageFile& file) {
  HttpResponse response;
  response.content_type = ContentType(file.name);
  response.body = std::string(file.content);
  const std::string tag = EntityTag(file.content);
  response.headers = {{"Cache-Control", "no-cache"},
                      {"ETag", tag},
                      {"Content-Security-Policy", kContentSecurityPolicy},
                      {"Referrer-Policy", "no-referrer"},
                      {"X-Frame-Options", "DENY"},
                      {"Cross-Origin-Opener-Policy", "same-origin"}};
  HttpResponse unchanged = response;
  unchanged.status = 304;
  unchanged.content_type.clear();
  unchanged.body.clear();
  return {"GET", path, Access::kOpen, RunOn::kIo,
          [response = std::move(response), unchanged = std::move(unchanged),
           tag](const HttpRequest& request) -> Reply {
            return request.accept_match.find(tag) != std::string::npos
                       ? unchanged
                       : response;
          }};
}

}  // namespace

std::vector<Route> PageRoutes() {
  std::vector<Route> routes;
  for (const PageFile& file : PageFiles()) {
    const std::string name(file.name);
    routes.push_back(FileRoute(name == "index.html" ? "/" : "/" + name, file));
  }
  return routes;
}

}  // namespace shoal
