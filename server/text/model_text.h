// ModelText is what a model says about text: its tokeniser and its own chat
// template, or where it has none the built-in format that its architecture was
// trained with (chat_formats.h). It wraps the Rust library of server/text/rust
// (tokenizers, minijinja) and keeps a table of every token's bytes, so that
// output is turned into text without crossing the boundary. Read-only after
// Load(): any thread.
//
// Control tokens that a user types inside a message stay plain text: in chat
// prompts, added tokens are recognised only where the template or format itself
// wrote them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/loading/checkpoint.h"

namespace shoal {

// What a chat template sees. JSON texts are in the shape Hugging Face templates
// expect; adapters build them from their own validated structures.
struct ChatTemplateInput {
  std::string messages_json;         // array of {role, content, ...}
  std::string tools_json;            // array, or empty: none
  std::string template_kwargs_json;  // object of extra variables, or empty
  bool add_generation_prompt = true;
};

// What a model's answers are made of besides text (completion_parser.h).
struct CompletionSyntax {
  bool think_tags = false;      // it may write <think>...</think>
  bool tool_blocks = false;     // it may write blocks of tool calls
  std::vector<int32_t> tokens;  // of the markers, special ones among them
};

class ModelText {
 public:
  virtual ~ModelText() = default;

  // From tokenizer.json (and tokenizer_config.json, chat_template.jinja) of a
  // folder, or from a GGUF's metadata. InvalidArgument or Unimplemented in the
  // one-line form of engine/loading/load_error.h.
  static absl::StatusOr<std::unique_ptr<ModelText>> Load(
      const Checkpoint& checkpoint);
  // The two sources by themselves; the same errors. `model_type` as in
  // config.json; empty: no built-in chat format.
  static absl::StatusOr<std::unique_ptr<ModelText>> LoadFolder(
      const std::string& folder, std::string_view model_type = "");
  static absl::StatusOr<std::unique_ptr<ModelText>> LoadGguf(
      const GgufFile& gguf, std::string_view model_type = "");

  // Ids are in [0, vocab_size()).
  virtual int32_t vocab_size() const = 0;
  // Added tokens in `text` are recognised. `add_special_tokens`: bos (and eos)
  // where the tokeniser itself adds them. InvalidArgument: not UTF-8.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(
      std::string_view text, bool add_special_tokens) const = 0;

  // Or a built-in format, here and below.
  virtual bool has_chat_template() const = 0;
  // InvalidArgument: the template refused the messages (its own words), or used
  // more steps or output than allowed; FailedPrecondition: no template.
  virtual absl::StatusOr<std::string> RenderChat(
      const ChatTemplateInput& input) const = 0;
  // Tokens of the rendered chat, without a second bos.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const ChatTemplateInput& input) const = 0;

  virtual const CompletionSyntax& completion_syntax() const;

  // The bytes a token stands for: part of a character perhaps; an added
  // token's text; empty for an id that has none. Valid as long as this.
  virtual std::string_view TokenBytes(int32_t token) const = 0;
  // Whether "skip special tokens" leaves it out.
  virtual bool IsSpecial(int32_t token) const = 0;
  // Id of a token by its text ("<|im_end|>").
  virtual std::optional<int32_t> TokenId(std::string_view token) const = 0;
  // Ids that the tokeniser's files name as end of turn or text.
  virtual const std::vector<int32_t>& end_token_ids() const = 0;
  // Whether one space at the start of decoded text is dropped, as
  // SentencePiece models want that put one there before encoding.
  virtual bool StripsLeadingSpace() const { return false; }
  // The whole of `tokens` as UTF-8, broken bytes as U+FFFD.
  std::string Decode(std::span<const int32_t> tokens,
                     bool skip_special_tokens) const;
};

}  // namespace shoal
