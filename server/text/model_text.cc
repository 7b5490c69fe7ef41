#include "server/text/model_text.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "engine/loading/gguf.h"
#include "server/text/chat_conversation.h"
#include "server/text/chat_formats.h"
#include "server/text/chat_tokens.h"
#include "server/text/incremental_detokenizer.h"
#include "server/text/text_source.h"

namespace shoal {
namespace {

// U+FDD0, which stands inside added tokens typed by users (shoal_text.h).
constexpr std::string_view kMarker = "\xEF\xB7\x90";

// Tokens that end a turn or a text in the models we serve, whatever their
// files forget to say.
constexpr std::string_view kEndTokens[] = {"<|im_end|>", "<|eot_id|>",
                                           "<|endoftext|>",
                                           "<\xEF\xBD\x9C"
                                           "end\xE2\x96\x81"
                                           "of\xE2\x96\x81"
                                           "sentence\xEF\xBD\x9C>"};

class RustModelText : public ModelText {
 public:
  RustModelText(TextSource source, std::string_view model_type)
      : source_(std::move(source)) {
    size_t count = 0;
    const ShoalToken* tokens = shoal_text_tokens(source_.text.get(), &count);
    tokens_ = {tokens, count};
    strips_leading_space_ =
        shoal_text_strips_leading_space(source_.text.get()) != 0;
    for (size_t id = 0; id < count; ++id) {
      if (!(tokens[id].flags & SHOAL_TOKEN_ADDED)) continue;
      added_ids_.emplace(TokenBytes(static_cast<int32_t>(id)), id);
    }
    bos_ = TokenId(source_.bos_token);
    eos_ = TokenId(source_.eos_token);
    for (int64_t id : source_.end_token_ids) {
      if (id >= 0 && id < vocab_size()) AddEnd(static_cast<int32_t>(id));
    }
    if (eos_.has_value()) AddEnd(*eos_);
    for (std::string_view token : kEndTokens) {
      const auto added = added_ids_.find(token);
      if (added != added_ids_.end()) AddEnd(added->second);
    }
    if (!source_.has_chat_template) {
      format_ = ChooseChatFormat(model_type, [this](std::string_view token) {
        return added_ids_.contains(token);
      });
    }
    SetSyntax();
  }

  int32_t vocab_size() const override {
    return static_cast<int32_t>(tokens_.size());
  }

  absl::StatusOr<std::vector<int32_t>> Encode(
      std::string_view text, bool add_special_tokens) const override {
    std::vector<int32_t> tokens;
    absl::Status status = Append(text, add_special_tokens, tokens);
    if (!status.ok()) return status;
    if (add_special_tokens) {
      if (source_.add_bos) AddBos(tokens);
      const bool is_ended = !tokens.empty() && tokens.back() == eos_;
      if (source_.add_eos && eos_.has_value() && !is_ended) {
        tokens.push_back(*eos_);
      }
    }
    return tokens;
  }

  bool has_chat_template() const override {
    return source_.has_chat_template || format_.has_value();
  }

  absl::StatusOr<std::string> RenderChat(
      const ChatTemplateInput& input) const override {
    absl::StatusOr<std::string> marked = Render(input);
    if (!marked.ok()) return marked.status();
    std::string text;
    for (std::string_view piece : Pieces(*marked)) text.append(piece);
    return text;
  }

  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const ChatTemplateInput& input) const override {
    absl::StatusOr<std::string> marked = Render(input);
    if (!marked.ok()) return marked.status();
    std::vector<int32_t> tokens;
    for (std::string_view piece : Pieces(*marked)) {
      absl::Status status = Append(piece, /*add_special_tokens=*/false, tokens);
      if (!status.ok()) return status;
    }
    if (source_.add_bos || EncoderAddsBos()) AddBos(tokens);
    return tokens;
  }

  const CompletionSyntax& completion_syntax() const override { return syntax_; }

  std::string_view TokenBytes(int32_t token) const override {
    if (token < 0 || token >= vocab_size()) return "";
    const ShoalBytes& bytes = tokens_[token].bytes;
    return {reinterpret_cast<const char*>(bytes.data), bytes.size};
  }

  bool IsSpecial(int32_t token) const override {
    return token >= 0 && token < vocab_size() &&
           (tokens_[token].flags & SHOAL_TOKEN_SPECIAL) != 0;
  }

  std::optional<int32_t> TokenId(std::string_view token) const override {
    const auto added = added_ids_.find(token);
    if (added != added_ids_.end()) return added->second;
    if (token.empty()) return std::nullopt;
    for (int32_t id = 0; id < vocab_size(); ++id) {
      if (TokenBytes(id) == token) return id;
    }
    return std::nullopt;
  }

  const std::vector<int32_t>& end_token_ids() const override {
    return end_token_ids_;
  }

  bool StripsLeadingSpace() const override { return strips_leading_space_; }

 private:
  // `text` between its markers; at least one piece.
  static std::vector<std::string_view> Pieces(std::string_view text) {
    std::vector<std::string_view> pieces;
    for (size_t end; (end = text.find(kMarker)) != text.npos;) {
      pieces.push_back(text.substr(0, end));
      text.remove_prefix(end + kMarker.size());
    }
    pieces.push_back(text);
    return pieces;
  }

  void SetSyntax() {
    using namespace chat_tokens;  // NOLINT: a list of them
    const bool thinks = format_.has_value() && *format_ != ChatFormat::kV2 &&
                        *format_ != ChatFormat::kV3;
    syntax_.think_tags =
        thinks || source_.template_thinks || added_ids_.contains(kEndThink);
    syntax_.tool_blocks =
        (format_.has_value() && *format_ != ChatFormat::kV2) ||
        added_ids_.contains(kToolCallsBegin) || added_ids_.contains(kDsml);
    for (std::string_view marker :
         {kThink, kEndThink, kToolCallsBegin, kToolCallsEnd, kToolCallBegin,
          kToolCallEnd, kToolSep, kDsml}) {
      const auto added = added_ids_.find(marker);
      if (added != added_ids_.end()) syntax_.tokens.push_back(added->second);
    }
  }

  void AddEnd(int32_t id) {
    if (std::ranges::find(end_token_ids_, id) == end_token_ids_.end()) {
      end_token_ids_.push_back(id);
    }
  }

  void AddBos(std::vector<int32_t>& tokens) const {
    const bool is_begun = !tokens.empty() && tokens.front() == bos_;
    if (bos_.has_value() && !is_begun) tokens.insert(tokens.begin(), *bos_);
  }

  // Whether tokenizer.json itself puts bos before a text.
  bool EncoderAddsBos() const {
    std::vector<int32_t> tokens;
    return bos_.has_value() && Append("", true, tokens).ok() &&
           !tokens.empty() && tokens.front() == *bos_;
  }

  absl::Status Append(std::string_view text, bool add_special_tokens,
                      std::vector<int32_t>& tokens) const {
    int32_t* ids = nullptr;
    size_t count = 0;
    absl::Status status =
        TakeStatus(shoal_text_encode(source_.text.get(), ToShoalBytes(text),
                                     add_special_tokens, &ids, &count),
                   "");
    if (!status.ok()) return status;
    tokens.insert(tokens.end(), ids, ids + count);
    shoal_text_free_ids(ids, count);
    return absl::OkStatus();
  }

  // With markers.
  absl::StatusOr<std::string> Render(const ChatTemplateInput& input) const {
    if (format_.has_value()) return RenderFormat(*format_, input);
    if (!source_.has_chat_template) {
      return absl::FailedPreconditionError("the model has no chat template");
    }
    absl::StatusOr<std::string> text = RenderTemplate(input);
    if (absl::IsInvalidArgument(text.status())) {
      // Some print arguments with tojson, others join them to text as they are.
      std::optional<ChatTemplateInput> printed = PrintArguments(input);
      if (printed.has_value()) {
        absl::StatusOr<std::string> retried = RenderTemplate(*printed);
        if (retried.ok()) return retried;
      }
    }
    return text;
  }

  // The same with tool calls' arguments as JSON text; absent: there are none.
  static std::optional<ChatTemplateInput> PrintArguments(
      const ChatTemplateInput& input) {
    if (input.messages_json.find("\"tool_calls\"") == std::string::npos) {
      return std::nullopt;
    }
    absl::StatusOr<Conversation> conversation = ParseConversation(input);
    if (!conversation.ok()) return std::nullopt;
    OrderedJson messages = OrderedJson::parse(input.messages_json);
    for (const ConversationTurn& turn : conversation->turns) {
      for (size_t i = 0; i < turn.calls.size(); ++i) {
        messages[turn.index]["tool_calls"][i]["function"]["arguments"] =
            ArgumentsText(turn.calls[i]);
      }
    }
    ChatTemplateInput printed = input;
    printed.messages_json = messages.dump();
    return printed;
  }

  absl::StatusOr<std::string> RenderTemplate(
      const ChatTemplateInput& input) const {
    const ShoalChat chat = {
        .messages = ToShoalBytes(input.messages_json),
        .tools = ToShoalBytes(input.tools_json),
        .kwargs = ToShoalBytes(input.template_kwargs_json),
        .add_generation_prompt = input.add_generation_prompt};
    uint8_t* output = nullptr;
    size_t size = 0;
    absl::Status status = TakeStatus(
        shoal_text_render(source_.text.get(), &chat, &output, &size), "");
    if (!status.ok()) return status;
    return TakeText(output, size);
  }

  absl::StatusOr<std::string> RenderFormat(
      ChatFormat format, const ChatTemplateInput& input) const {
    ChatTemplateInput marked = input;
    const struct {
      std::string_view field;
      std::string& json;
    } texts[] = {{"messages", marked.messages_json},
                 {"tools", marked.tools_json},
                 {"chat_template_kwargs", marked.template_kwargs_json}};
    for (const auto& [field, json] : texts) {
      if (json.empty()) continue;
      uint8_t* output = nullptr;
      size_t size = 0;
      absl::Status status =
          TakeStatus(shoal_text_mark(source_.text.get(), ToShoalBytes(field),
                                     ToShoalBytes(json), &output, &size),
                     "");
      if (!status.ok()) return status;
      json = TakeText(output, size);
    }
    return EncodeChatFormat(format, marked);
  }

  static std::string TakeText(uint8_t* output, size_t size) {
    std::string text(reinterpret_cast<const char*>(output), size);
    shoal_text_free_text(output, size);
    return text;
  }

  TextSource source_;
  CompletionSyntax syntax_;
  std::optional<ChatFormat> format_;    // only where there is no template
  std::span<const ShoalToken> tokens_;  // of source_.text
  bool strips_leading_space_ = false;
  std::unordered_map<std::string_view, int32_t> added_ids_;
  std::optional<int32_t> bos_;
  std::optional<int32_t> eos_;
  std::vector<int32_t> end_token_ids_;
};

absl::StatusOr<std::unique_ptr<ModelText>> Make(
    absl::StatusOr<TextSource> source, std::string_view model_type) {
  if (!source.ok()) return source.status();
  return std::make_unique<RustModelText>(*std::move(source), model_type);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelText>> ModelText::Load(
    const Checkpoint& checkpoint) {
  const std::string& model_type = checkpoint.config().model_type;
  return checkpoint.gguf() != nullptr
             ? LoadGguf(*checkpoint.gguf(), model_type)
             : LoadFolder(checkpoint.path(), model_type);
}

absl::StatusOr<std::unique_ptr<ModelText>> ModelText::LoadFolder(
    const std::string& folder, std::string_view model_type) {
  return Make(ReadFolderText(folder), model_type);
}

absl::StatusOr<std::unique_ptr<ModelText>> ModelText::LoadGguf(
    const GgufFile& gguf, std::string_view model_type) {
  return Make(ReadGgufText(gguf), model_type);
}

const CompletionSyntax& ModelText::completion_syntax() const {
  static const CompletionSyntax kNone;
  return kNone;
}

std::string ModelText::Decode(std::span<const int32_t> tokens,
                              bool skip_special_tokens) const {
  IncrementalDetokenizer detokenizer(*this, skip_special_tokens);
  std::string text;
  for (int32_t token : tokens) text += detokenizer.Push(token);
  return text + detokenizer.Finish();
}

}  // namespace shoal
