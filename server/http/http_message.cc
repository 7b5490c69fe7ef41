#include "server/http/http_message.h"

#include <cstdint>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace shoal {
namespace {

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::optional<std::string> DecodePath(std::string_view path) {
  std::string out;
  out.reserve(path.size());
  for (size_t i = 0; i < path.size(); ++i) {
    char c = path[i];
    if (c == '%') {
      if (i + 2 >= path.size()) return std::nullopt;
      const int high = HexValue(path[i + 1]);
      const int low = HexValue(path[i + 2]);
      if (high < 0 || low < 0) return std::nullopt;
      c = static_cast<char>(high * 16 + low);
      i += 2;
    }
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return std::nullopt;
    out.push_back(c);
  }
  for (absl::string_view segment : absl::StrSplit(out, '/')) {
    if (segment == "..") return std::nullopt;
  }
  if (!IsUtf8(out)) return std::nullopt;
  return out;
}

std::string RequestIdOrNew(std::string_view id) {
  bool good = !id.empty() && id.size() <= 128;
  for (char c : id) {
    good = good && (absl::ascii_isalnum(c) || c == '-' || c == '_' ||
                    c == '.' || c == ':');
  }
  if (good) return std::string(id);
  absl::BitGen random;
  return absl::StrFormat("%016x%016x", absl::Uniform<uint64_t>(random),
                         absl::Uniform<uint64_t>(random));
}

bool IsUtf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    int length = 0;
    uint32_t code = 0;
    if (lead >= 0xc2 && lead <= 0xdf) {
      length = 2;
      code = lead & 0x1f;
    } else if (lead >= 0xe0 && lead <= 0xef) {
      length = 3;
      code = lead & 0x0f;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
      length = 4;
      code = lead & 0x07;
    } else {
      return false;
    }
    if (i + length > text.size()) return false;
    for (int k = 1; k < length; ++k) {
      const auto byte = static_cast<unsigned char>(text[i + k]);
      if ((byte & 0xc0) != 0x80) return false;
      code = (code << 6) | (byte & 0x3f);
    }
    const bool overlong =
        (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
    const bool surrogate = code >= 0xd800 && code <= 0xdfff;
    if (overlong || surrogate || code > 0x10ffff) return false;
    i += length;
  }
  return true;
}

bool IsJsonContentType(std::string_view content_type) {
  const std::string text(content_type);
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ';');
  const absl::string_view type = absl::StripAsciiWhitespace(parts[0]);
  if (!absl::EqualsIgnoreCase(type, "application/json")) return false;
  for (size_t i = 1; i < parts.size(); ++i) {
    absl::string_view parameter = absl::StripAsciiWhitespace(parts[i]);
    if (!absl::StartsWithIgnoreCase(parameter, "charset=")) continue;
    parameter.remove_prefix(8);
    absl::ConsumePrefix(&parameter, "\"");
    absl::ConsumeSuffix(&parameter, "\"");
    if (!absl::EqualsIgnoreCase(parameter, "utf-8")) return false;
  }
  return true;
}

}  // namespace shoal
