// What a protocol edge adds to absl::Status: which request parameter was wrong,
// a stable machine-readable code, and when to try again. Carried as payloads,
// so that every dialect renders the same error in its own form.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace shoal {

// Names the parameter ("max_tokens") and a stable code ("invalid_value",
// "context_length_exceeded", "model_not_found", "queue_full", "draining", ...).
absl::Status WithDetail(absl::Status status, std::string_view param,
                        std::string_view code);
// Adds how long a client should wait before the next try.
absl::Status WithRetryAfter(absl::Status status, absl::Duration delay);

// Empty when not set.
std::string ErrorParam(const absl::Status& status);
std::string ErrorCode(const absl::Status& status);
std::optional<absl::Duration> RetryAfter(const absl::Status& status);

// The HTTP status of a code (DESIGN: InvalidArgument 400, NotFound 404,
// ResourceExhausted 429, Unavailable 503, DeadlineExceeded 504, ...).
int HttpStatus(const absl::Status& status);

// `text` cut to `max_bytes` at a character's end, invalid UTF-8 and control
// characters replaced: what may be put into a log line or error text.
std::string PrintableText(std::string_view text, size_t max_bytes = 200);

}  // namespace shoal
