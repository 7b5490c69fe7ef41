#include "server/http/api_error.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/errors.h"

namespace shoal {
namespace {

constexpr size_t kMaxMessageBytes = 600;

std::string_view ErrorType(int http_status) {
  switch (http_status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    case 504:
      return "timeout_error";
    default:
      return http_status >= 500 ? "server_error" : "invalid_request_error";
  }
}

std::string ErrorBody(const absl::Status& status, int http_status) {
  const bool inside = absl::IsInternal(status) || absl::IsUnknown(status);
  nlohmann::ordered_json error;
  error["message"] =
      inside ? "Internal error; the server's log has more under "
               "this request's id"
             : PrintableText(std::string(status.message()), kMaxMessageBytes);
  error["type"] = ErrorType(http_status);
  const std::string param = PrintableText(ErrorParam(status));
  const std::string code = PrintableText(ErrorCode(status));
  error["param"] = nullptr;
  if (!param.empty()) error["param"] = param;
  error["code"] = nullptr;
  if (!code.empty()) error["code"] = code;
  nlohmann::ordered_json body;
  body["error"] = std::move(error);
  return body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

std::string ApiErrorBody(const absl::Status& status) {
  return ErrorBody(status, HttpStatus(status));
}

HttpResponse ApiError(const absl::Status& status, int http_status) {
  HttpResponse response;
  response.status = http_status != 0 ? http_status : HttpStatus(status);
  response.content_type = "application/json";
  response.body = ErrorBody(status, response.status);
  if (response.status == 429 || response.status == 503) {
    const absl::Duration delay = RetryAfter(status).value_or(absl::Seconds(1));
    const int64_t seconds = std::max<int64_t>(
        1, absl::ToInt64Seconds(absl::Ceil(delay, absl::Seconds(1))));
    response.headers.emplace_back("Retry-After", absl::StrCat(seconds));
  }
  if (response.status == 401) {
    response.headers.emplace_back("WWW-Authenticate", "Bearer");
  }
  return response;
}

}  // namespace shoal
