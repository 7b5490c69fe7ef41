#include "server/text/incremental_detokenizer.h"

#include <algorithm>
#include <string_view>

namespace shoal {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// What starts at the front of some bytes.
struct Utf8Front {
  // A whole character, the longest start of one that cannot be completed
  // (Unicode's maximal subpart), or one that still can.
  enum { kWhole, kBroken, kOpen } kind;
  size_t size;
};

// REQUIRES: `bytes` is not empty.
Utf8Front ReadFront(std::string_view bytes) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {Utf8Front::kWhole, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Front::kBroken, 1};
  const size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte excludes overlong forms, surrogates and what lies above
  // U+10FFFF.
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < size; ++i) {
    if (i == bytes.size()) return {Utf8Front::kOpen, i};
    if (byte(i) < low || byte(i) > high) return {Utf8Front::kBroken, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Front::kWhole, size};
}

}  // namespace

std::string IncrementalDetokenizer::Push(int32_t token) {
  if (skip_special_tokens_ && text_.IsSpecial(token) &&
      std::ranges::find(kept_, token) == kept_.end()) {
    return "";
  }
  std::string_view bytes = text_.TokenBytes(token);
  if (bytes.empty()) return "";
  if (at_start_ && text_.StripsLeadingSpace() && bytes.front() == ' ') {
    bytes.remove_prefix(1);
  }
  at_start_ = false;
  pending_.append(bytes);

  std::string text;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Front front = ReadFront(rest);
    if (front.kind == Utf8Front::kOpen) break;
    text.append(front.kind == Utf8Front::kWhole ? rest.substr(0, front.size)
                                                : kReplacement);
    rest.remove_prefix(front.size);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return text;
}

std::string IncrementalDetokenizer::Finish() {
  // What is pending is one start of a character.
  const bool is_open = !pending_.empty();
  pending_.clear();
  return std::string(is_open ? kReplacement : "");
}

}  // namespace shoal
