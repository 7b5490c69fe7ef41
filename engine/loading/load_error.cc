#include "engine/loading/load_error.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace shoal {

MessagePart::MessagePart(double number) : text_(absl::StrCat(number)) {}

std::string Concat(std::initializer_list<MessagePart> parts) {
  std::string joined;
  for (const MessagePart& part : parts) joined += part.text();
  return joined;
}

std::string Quoted(std::string_view text) {
  constexpr size_t kLongest = 96;
  const std::string shown(text.substr(0, kLongest));
  const char* end = text.size() > kLongest ? "...\"" : "\"";
  return absl::StrCat("\"", absl::CHexEscape(shown), end);
}

std::string ShapeString(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ", ", shape[i]);
  }
  return text + "]";
}

absl::Status BadField(std::string_view file, std::string_view field,
                      const MessagePart& expected, const MessagePart& got) {
  return absl::InvalidArgumentError(
      Concat({file, ": ", field, ": expected ", expected, ", got ", got}));
}

}  // namespace shoal
