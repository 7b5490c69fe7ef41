#include "server/errors.h"

#include <cstdint>

#include "absl/strings/cord.h"

namespace shoal {
namespace {

constexpr char kParamUrl[] = "shoal/param";
constexpr char kCodeUrl[] = "shoal/code";
constexpr char kRetryUrl[] = "shoal/retry_after";

std::string Payload(const absl::Status& status, const char* url) {
  const auto payload = status.GetPayload(url);
  return payload ? std::string(*payload) : std::string();
}

// Length of the well-formed UTF-8 character at the start of `text`, or 0.
size_t CharacterLength(std::string_view text) {
  const auto byte = [&](size_t i) {
    return static_cast<unsigned char>(text[i]);
  };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xf0   ? 4
                        : lead >= 0xe0 ? 3
                        : lead >= 0xc2 ? 2
                                       : 0;
  if (length == 0 || lead > 0xf4 || length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Overlong forms, surrogates and what lies past U+10FFFF.
  const unsigned char second = byte(1);
  if (lead == 0xe0 && second < 0xa0) return 0;
  if (lead == 0xed && second > 0x9f) return 0;
  if (lead == 0xf0 && second < 0x90) return 0;
  if (lead == 0xf4 && second > 0x8f) return 0;
  return length;
}

}  // namespace

absl::Status WithDetail(absl::Status status, std::string_view param,
                        std::string_view code) {
  if (!param.empty()) {
    status.SetPayload(kParamUrl, absl::Cord(std::string(param)));
  }
  if (!code.empty()) {
    status.SetPayload(kCodeUrl, absl::Cord(std::string(code)));
  }
  return status;
}

absl::Status WithRetryAfter(absl::Status status, absl::Duration delay) {
  status.SetPayload(kRetryUrl, absl::Cord(absl::FormatDuration(delay)));
  return status;
}

std::string ErrorParam(const absl::Status& status) {
  return Payload(status, kParamUrl);
}

std::string ErrorCode(const absl::Status& status) {
  return Payload(status, kCodeUrl);
}

std::optional<absl::Duration> RetryAfter(const absl::Status& status) {
  absl::Duration delay;
  if (!absl::ParseDuration(Payload(status, kRetryUrl), &delay)) {
    return std::nullopt;
  }
  return delay;
}

int HttpStatus(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

std::string PrintableText(std::string_view text, size_t max_bytes) {
  constexpr std::string_view kReplacement = "\xef\xbf\xbd";
  constexpr std::string_view kEllipsis = "...";
  std::string out;
  while (!text.empty()) {
    const size_t length = CharacterLength(text);
    const auto lead = static_cast<unsigned char>(text[0]);
    // C1 controls are the characters 0xc2 0x80 to 0xc2 0x9f.
    const bool control = lead < 0x20 || lead == 0x7f ||
                         (length == 2 && lead == 0xc2 &&
                          static_cast<unsigned char>(text[1]) < 0xa0);
    const std::string_view piece =
        length == 0 || control ? kReplacement : text.substr(0, length);
    if (out.size() + piece.size() > max_bytes) {
      out += kEllipsis;
      break;
    }
    out += piece;
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out;
}

}  // namespace shoal
