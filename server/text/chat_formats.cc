#include "server/text/chat_formats.h"

#include <utility>

#include "server/text/chat_conversation.h"

namespace shoal {
namespace {

using namespace chat_tokens;  // NOLINT: the formats are made of them

constexpr std::string_view kOutputsBegin = "<｜tool▁outputs▁begin｜>";
constexpr std::string_view kOutputsEnd = "<｜tool▁outputs▁end｜>";
constexpr std::string_view kOutputBegin = "<｜tool▁output▁begin｜>";
constexpr std::string_view kOutputEnd = "<｜tool▁output▁end｜>";

bool IsSystem(const ConversationTurn& turn) {
  return turn.role == "system" || turn.role == "developer";
}

absl::StatusOr<std::string> EncodeV2(const Conversation& conversation) {
  if (!conversation.tools.is_null()) {
    return absl::InvalidArgumentError(
        "tools: the model's chat format has none");
  }
  std::string out(kBegin);
  for (const ConversationTurn& turn : conversation.turns) {
    if (turn.role == "tool" || !turn.calls.empty()) {
      return BadTurn(turn, "the model's chat format has no tool calls");
    }
    if (IsSystem(turn)) {
      Append(out, {turn.content, "\n\n"});
    } else if (turn.role == "user") {
      Append(out, {"User: ", turn.content, "\n\n"});
    } else if (turn.role == "assistant") {
      Append(out, {"Assistant: ", turn.content, kEnd});
    } else {
      return UnknownRole(turn);
    }
  }
  if (conversation.add_generation_prompt) out += "Assistant:";
  return out;
}

// v3, r1 and v3.1 differ in what follows the assistant's token, in how calls
// and results are set, and in what is cut from earlier answers.
class V3Encoder {
 public:
  V3Encoder(ChatFormat format, const Conversation& conversation)
      : format_(format), conversation_(conversation) {}

  absl::StatusOr<std::string> Encode() && {
    out_ = kBegin;
    const char* separator = "";
    for (const ConversationTurn& turn : conversation_.turns) {
      if (!IsSystem(turn)) continue;
      Append(out_, {std::exchange(separator, "\n\n"), turn.content});
    }
    for (const ConversationTurn& turn : conversation_.turns) {
      if (IsSystem(turn)) continue;
      if (turn.role == "tool") {
        AddResult(turn);
        continue;
      }
      const bool continues = EndResults();
      if (turn.role == "user") {
        Append(out_, {kUser, turn.content});
      } else if (turn.role == "assistant") {
        AddAnswer(turn, continues);
      } else {
        return UnknownRole(turn);
      }
    }
    // After results the assistant goes on without a token of its own.
    if (!EndResults() && conversation_.add_generation_prompt) {
      out_ += kAssistant;
      if (format_ == ChatFormat::kR1) Append(out_, {kThink, "\n"});
      if (format_ == ChatFormat::kV31) {
        out_ += conversation_.thinking ? kThink : kEndThink;
      }
    }
    return std::move(out_);
  }

 private:
  bool is_v31() const { return format_ == ChatFormat::kV31; }

  void AddResult(const ConversationTurn& turn) {
    if (!is_v31()) out_ += in_results_ ? "\n" : kOutputsBegin;
    in_results_ = true;
    Append(out_, {kOutputBegin, turn.content, kOutputEnd});
  }

  // Whether results came last.
  bool EndResults() {
    if (in_results_ && !is_v31()) out_ += kOutputsEnd;
    return std::exchange(in_results_, false);
  }

  void AddAnswer(const ConversationTurn& turn, bool continues) {
    std::string_view content = turn.content;
    if (!continues) {
      out_ += kAssistant;
      if (is_v31()) out_ += kEndThink;
    }
    // What v3.1 says after results was never cut when it was trained.
    if (format_ == ChatFormat::kR1 || (is_v31() && !continues)) {
      const size_t end =
          is_v31() ? content.find(kEndThink) : content.rfind(kEndThink);
      if (end != content.npos) content.remove_prefix(end + kEndThink.size());
    }
    out_ += content;
    if (!turn.calls.empty()) AddCalls(turn);
    out_ += kEnd;
  }

  void AddCalls(const ConversationTurn& turn) {
    out_ += kToolCallsBegin;
    const char* separator = "";
    for (const ConversationCall& call : turn.calls) {
      if (is_v31()) {
        Append(out_, {kToolCallBegin, call.name, kToolSep, ArgumentsText(call),
                      kToolCallEnd});
      } else {
        Append(out_, {std::exchange(separator, "\n"), kToolCallBegin,
                      "function", kToolSep, call.name, "\n```json\n",
                      ArgumentsText(call), "\n```", kToolCallEnd});
      }
    }
    out_ += kToolCallsEnd;
  }

  const ChatFormat format_;
  const Conversation& conversation_;
  std::string out_;
  bool in_results_ = false;
};

}  // namespace

std::optional<ChatFormat> ChooseChatFormat(
    std::string_view model_type,
    const std::function<bool(std::string_view)>& has_token) {
  if (!has_token(kBegin)) return std::nullopt;
  if (model_type == "deepseek" || model_type == "deepseek_v2") {
    return ChatFormat::kV2;
  }
  if (!has_token(kUser) || !has_token(kAssistant)) return std::nullopt;
  if (model_type == "deepseek_v32") return ChatFormat::kV32;
  if (model_type == "deepseek_v4") return ChatFormat::kV4;
  if (model_type != "deepseek_v3") return std::nullopt;
  // One architecture, three vocabularies: R1 brought the think tags, V3.1 the
  // search tokens.
  if (!has_token(kEndThink)) return ChatFormat::kV3;
  return has_token("<｜search▁begin｜>") ? ChatFormat::kV31 : ChatFormat::kR1;
}

absl::StatusOr<std::string> EncodeChatFormat(ChatFormat format,
                                             const ChatTemplateInput& input) {
  absl::StatusOr<Conversation> conversation = ParseConversation(input);
  if (!conversation.ok()) return conversation.status();
  switch (format) {
    case ChatFormat::kV2:
      return EncodeV2(*conversation);
    case ChatFormat::kV32:
      return EncodeV32(*std::move(conversation));
    case ChatFormat::kV4:
      return EncodeV4(*std::move(conversation));
    default:
      return V3Encoder(format, *conversation).Encode();
  }
}

}  // namespace shoal
