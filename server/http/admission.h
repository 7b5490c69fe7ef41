// Admission decides from a request's head alone, before its body is read,
// whether and by which route it is served: path, method, key, content type,
// cross-origin rules. Pure but for the request id it may draw.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/auth.h"
#include "server/http/http_message.h"
#include "server/http/http_server.h"
#include "server/http/router.h"

namespace shoal {

// Header values as sent, empty where absent.
struct RequestHead {
  std::string method;
  std::string target;
  bool http_1_1 = true;
  int num_hosts = 1;  // Host headers
  std::string content_type;
  std::string content_encoding;
  std::string authorization;
  std::string expect;
  std::string if_none_match;
  std::string origin;
  std::string request_method;  // Access-Control-Request-Method
  std::string request_id;
};

struct Admission {
  HttpRequest request;  // all but the body
  // Exactly one of these is set.
  const Route* route = nullptr;
  std::optional<HttpResponse> answer;  // a refusal, or the answer to OPTIONS
  // To be added to the response of a cross-origin request that is allowed.
  std::vector<std::pair<std::string, std::string>> cors_headers;
};

// `open_only`: the server is full, and only open routes are served.
Admission Admit(const RequestHead& head, const Router& router,
                const ApiKeys& keys, const HttpServerOptions& options,
                bool open_only);

}  // namespace shoal
