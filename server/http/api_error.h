// Errors as OpenAI's dialect writes them:
//   {"error": {"message", "type", "param", "code"}}
#pragma once

#include <string>

#include "absl/status/status.h"
#include "server/http/http_message.h"

namespace shoal {

// The body alone, one line; valid UTF-8 whatever the message holds. Internal
// and Unknown errors tell the client nothing of the inside: their message stays
// in the log, which has the request id.
std::string ApiErrorBody(const absl::Status& status);

// With the HTTP status of the code (or `http_status` where the protocol itself
// asks for one, such as 405, 413, 415 and 431) and Retry-After where known.
HttpResponse ApiError(const absl::Status& status, int http_status = 0);

}  // namespace shoal
