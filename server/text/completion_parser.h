// CompletionParser takes the text that a chat model writes apart into typed
// deltas: reasoning, content and tool calls. It reads decoded text, in pieces
// cut anywhere, and holds back only what could still become a marker, so that
// how text was cut changes nothing but where deltas end.
//
//   <think>...</think>         reasoning, at the start of the answer
//   <｜tool▁calls▁begin｜>...  calls of V3, R1 and V3.1; arguments pass as
//                              they are written
//   <｜DSML｜function_calls>   calls of V3.2; <｜DSML｜tool_calls> of V4.
//                              Arguments become one JSON object: values with
//                              string="true" are escaped as they come, others
//                              are put in whole once they are JSON (or else
//                              as a string)
//
// Line breaks next to think tags and before or after a block of calls belong to
// the markers. Damaged blocks lose nothing: a call not yet reported becomes
// content, as does what follows a broken place; arguments that end before their
// call does stay unfinished, so that nobody takes them for whole.
// One object a sequence; one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace shoal {

struct CompletionDelta {
  enum class Kind : uint8_t { kContent, kReasoning, kToolCall };
  Kind kind = Kind::kContent;
  std::string text;  // kToolCall: a piece of the JSON arguments
  // kToolCall only; id and name on a call's first delta.
  int32_t tool_call_index = 0;
  std::string tool_call_id;
  std::string tool_name;
};

struct CompletionParserOptions {
  enum class Start : uint8_t {
    kContent,    // think tags are plain text
    kReasoning,  // the prompt has opened <think>
    kEither,     // reasoning if the text begins with <think>
  };
  Start start = Start::kContent;
  bool tools = false;  // look for blocks of calls
  // Makes the id of a call. REQUIRES: set when `tools` is.
  std::function<std::string()> new_call_id;
};

class CompletionParser {
 public:
  explicit CompletionParser(CompletionParserOptions options);

  // What is certain after `text`; often empty. Pieces of one kind are joined.
  std::vector<CompletionDelta> Push(std::string_view text);
  // What was held back. Call once, at the end.
  std::vector<CompletionDelta> Finish();

 private:
  using Kind = CompletionDelta::Kind;
  // Each reads the front of held_ and says whether to go on with the rest.
  using State = bool (CompletionParser::*)();

  bool ReadStart();
  bool ReadReasoning();
  bool ReadContent();
  // Between the calls of V3, and the parts of one.
  bool ReadCalls();
  bool ReadCallHeader();
  bool ReadNameLine();
  bool ReadFence();
  bool ReadRawArguments();
  // Between the calls of a DSML block, and the parts of one.
  bool ReadInvokes();
  bool ReadParameters();
  bool ReadStringValue();
  bool ReadJsonValue();

  bool Enter(State state) {
    state_ = state;
    return true;
  }
  void Drop(size_t size);
  // Moves the front of held_ into raw_.
  void Keep(size_t size);
  void Emit(Kind kind, std::string_view text);
  void BeginCall(const std::string& name);
  bool EndBlock();
  // Gives up on a block: what was kept becomes content, as will the rest.
  bool Break();

  const CompletionParserOptions options_;
  State state_;
  std::string held_;    // text not read yet
  bool ended_ = false;  // no more will come
  std::string raw_;     // read, but of a call that is not reported yet
  size_t scanned_ = 0;  // bytes of held_ that hold no end of a value
  bool skip_newlines_ = false;
  bool fenced_ = false;          // V3's arguments stand in a code block
  bool has_arguments_ = false;   // some of this call's were emitted
  bool has_parameters_ = false;  // of this DSML call
  std::string block_end_;        // tag that ends the DSML block
  int32_t num_calls_ = 0;
  std::vector<CompletionDelta> out_;
};

}  // namespace shoal
