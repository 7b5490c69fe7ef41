// IncrementalDetokenizer turns a growing list of tokens into text that never
// ends inside a UTF-8 character: bytes are held back until their character is
// whole, and become U+FFFD only when they cannot be completed or at the end.
// The sum of what it returns equals ModelText::Decode() of all tokens.
// One object a sequence; one thread at a time.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "server/text/model_text.h"

namespace shoal {

class IncrementalDetokenizer {
 public:
  // `text` must outlive this. `kept`: ids that stay even if they are special.
  IncrementalDetokenizer(const ModelText& text, bool skip_special_tokens,
                         std::vector<int32_t> kept = {})
      : text_(text),
        skip_special_tokens_(skip_special_tokens),
        kept_(std::move(kept)) {}

  // Text that is certain now; may be empty.
  std::string Push(int32_t token);
  // What was held back. Call once, at the end.
  std::string Finish();

 private:
  const ModelText& text_;
  const bool skip_special_tokens_;
  const std::vector<int32_t> kept_;
  bool at_start_ = true;
  std::string pending_;  // bytes of a character that is not whole yet
};

}  // namespace shoal
