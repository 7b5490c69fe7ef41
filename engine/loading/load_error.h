// The one-line form of every complaint about a model file:
//   FILE: FIELD: expected EXPECTED, got GOT
// Names in the files are untrusted, so they are quoted, escaped to printable
// ASCII and cut before they enter a message.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace shoal {

// A piece of a message: text or a number. absl::StrCat() takes no
// std::string_view where Abseil was built for C++14, as Debian's is.
class MessagePart {
 public:
  MessagePart(const char* text) : text_(text) {}             // NOLINT
  MessagePart(std::string_view text) : text_(text) {}        // NOLINT
  MessagePart(std::string text) : text_(std::move(text)) {}  // NOLINT
  template <std::integral T>
  MessagePart(T number) : text_(std::to_string(number)) {}  // NOLINT
  MessagePart(double number);                               // NOLINT

  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

std::string Concat(std::initializer_list<MessagePart> parts);

// `text` in double quotes, escaped, at most about 100 characters.
std::string Quoted(std::string_view text);

// "[2, 3]"
std::string ShapeString(std::span<const int64_t> shape);

// InvalidArgument in the form above.
absl::Status BadField(std::string_view file, std::string_view field,
                      const MessagePart& expected, const MessagePart& got);

}  // namespace shoal
