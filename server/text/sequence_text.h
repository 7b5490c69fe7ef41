// SequenceText turns the tokens of one sequence into what its reader gets:
// decoded text, taken apart by a CompletionParser where the model's answers
// have parts, and ended by stop strings. Stop strings are looked for in content
// only, not in reasoning or arguments.
// One object a sequence; one thread at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/text/completion_parser.h"
#include "server/text/incremental_detokenizer.h"
#include "server/text/model_text.h"
#include "server/text/stop_matcher.h"

namespace shoal {

// How to read the answer to a chat prompt of those tokens, but for
// `new_call_id`. Absent: it is all content. `has_tools`: the request lists
// some.
std::optional<CompletionParserOptions> ChooseParser(
    const ModelText& text, std::span<const int32_t> prompt_token_ids,
    bool has_tools);

struct SequenceTextOptions {
  bool skip_special_tokens = true;  // markers that are parsed stay
  std::vector<std::string> stop;
  bool include_stop = false;
  std::optional<CompletionParserOptions> parser;
};

class SequenceText {
 public:
  // `text` must outlive this.
  SequenceText(const ModelText& text, const SequenceTextOptions& options);

  // Whether a stop string matched: the text ends there. REQUIRES: none did
  // before, and Finish() was not called.
  bool Push(int32_t token);
  // The sequence ended; likewise.
  bool Finish();
  // What came out since the last call, oldest first.
  std::vector<CompletionDelta> Take();
  // The stop string that matched; empty: none.
  const std::string& matched_stop() const { return matched_stop_; }

 private:
  bool Add(std::string_view text);
  bool AddParsed(std::vector<CompletionDelta> deltas);
  bool AddContent(StopMatcher::Result result);

  IncrementalDetokenizer detokenizer_;
  std::optional<CompletionParser> parser_;
  StopMatcher matcher_;
  std::string matched_stop_;
  std::vector<CompletionDelta> out_;
};

}  // namespace shoal
