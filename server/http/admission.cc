#include "server/http/admission.h"

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/http/api_error.h"

namespace shoal {
namespace {

absl::Status BadRequest(const char* message, std::string_view code) {
  return WithDetail(absl::InvalidArgumentError(message), "", code);
}

bool OriginAllowed(const HttpServerOptions& options, std::string_view origin) {
  for (const std::string& allowed : options.cors_allowed_origins) {
    if (allowed == "*" || allowed == origin) return true;
  }
  return false;
}

// The Origin of the request is echoed in a header: it must be a plain value.
bool IsPlain(std::string_view value) {
  for (char c : value) {
    if (static_cast<unsigned char>(c) <= 0x20 || c == 0x7f) return false;
  }
  return value.size() <= 256;
}

HttpResponse AnswerOptions(const RequestHead& head, const Router& router,
                           const Admission& admission) {
  const std::string allow = router.Allow(admission.request.path);
  if (allow.empty() && head.target != "*") {
    return ApiError(
        WithDetail(absl::NotFoundError("Unknown path"), "", "unknown_path"));
  }
  HttpResponse response;
  response.status = 204;
  response.headers.emplace_back(
      "Allow", allow.empty() ? "GET, HEAD, POST, OPTIONS" : allow);
  if (!admission.cors_headers.empty() && !head.request_method.empty()) {
    response.headers.emplace_back("Access-Control-Allow-Methods", allow);
    response.headers.emplace_back("Access-Control-Allow-Headers",
                                  "Authorization, Content-Type, X-Request-Id");
    response.headers.emplace_back("Access-Control-Max-Age", "600");
  }
  return response;
}

// What is wrong with the head whatever the route.
std::optional<HttpResponse> CheckForm(const RequestHead& head) {
  if (head.http_1_1 && head.num_hosts != 1) {
    return ApiError(BadRequest("A request carries exactly one Host header",
                               "invalid_host"));
  }
  if (!head.expect.empty() &&
      !absl::EqualsIgnoreCase(head.expect, "100-continue")) {
    return ApiError(
        BadRequest("Only Expect: 100-continue is understood", "invalid_expect"),
        417);
  }
  if (!head.content_encoding.empty() &&
      !absl::EqualsIgnoreCase(head.content_encoding, "identity")) {
    return ApiError(BadRequest("Compressed request bodies are not accepted",
                               "unsupported_content_encoding"),
                    415);
  }
  return std::nullopt;
}

std::optional<HttpResponse> CheckRoute(const RequestHead& head,
                                       const Route& route, const ApiKeys& keys,
                                       bool open_only, std::string* tenant) {
  if (route.access == Access::kKey) {
    if (open_only) {
      return ApiError(WithRetryAfter(
          WithDetail(absl::UnavailableError("Too many connections"), "",
                     "too_many_connections"),
          absl::Seconds(1)));
    }
    const auto name = keys.Check(ApiKeys::BearerToken(head.authorization));
    if (!name) {
      return ApiError(WithDetail(
          absl::UnauthenticatedError(
              "A valid API key is needed (Authorization: Bearer KEY)"),
          "", "invalid_api_key"));
    }
    *tenant = *name;
  }
  if (route.method == "POST" && !IsJsonContentType(head.content_type)) {
    return ApiError(BadRequest("Content-Type must be application/json",
                               "unsupported_content_type"),
                    415);
  }
  return std::nullopt;
}

}  // namespace

Admission Admit(const RequestHead& head, const Router& router,
                const ApiKeys& keys, const HttpServerOptions& options,
                bool open_only) {
  Admission admission;
  HttpRequest& request = admission.request;
  request.method = head.method;
  request.content_type = head.content_type;
  request.accept_match = head.if_none_match;
  request.request_id = RequestIdOrNew(head.request_id);
  if (!head.origin.empty() && IsPlain(head.origin) &&
      OriginAllowed(options, head.origin)) {
    admission.cors_headers = {
        {"Access-Control-Allow-Origin", head.origin},
        {"Access-Control-Expose-Headers", "X-Request-Id, Retry-After"},
        {"Vary", "Origin"}};
  }
  admission.answer = CheckForm(head);
  if (admission.answer) return admission;

  const size_t question = head.target.find('?');
  const auto path = DecodePath(head.target.substr(0, question));
  if (question != std::string::npos) {
    request.query = head.target.substr(question + 1);
  }
  const bool asterisk = head.target == "*" && head.method == "OPTIONS";
  if (!path || (!path->starts_with("/") && !asterisk)) {
    admission.answer =
        ApiError(BadRequest("The request's path is malformed", "invalid_path"));
    return admission;
  }
  request.path = *path;
  if (head.method == "OPTIONS") {
    admission.answer = AnswerOptions(head, router, admission);
    return admission;
  }

  const auto match = router.Find(request.method, request.path);
  if (!match.ok()) {
    const bool wrong_method = absl::IsUnimplemented(match.status());
    admission.answer = ApiError(match.status(), wrong_method ? 405 : 404);
    if (wrong_method) {
      admission.answer->headers.emplace_back("Allow",
                                             router.Allow(request.path));
    }
    return admission;
  }
  request.path_tail = std::string(match->tail);
  admission.answer =
      CheckRoute(head, *match->route, keys, open_only, &request.tenant);
  if (!admission.answer) admission.route = match->route;
  return admission;
}

}  // namespace shoal
