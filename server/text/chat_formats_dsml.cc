// v3.2 and v4: thinking and tools together, calls as DSML blocks.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/text/chat_conversation.h"
#include "server/text/chat_instructions.h"

namespace shoal {
namespace {

using namespace chat_tokens;  // NOLINT: the formats are made of them

// Turns of the request's own tools and schema into ones of its first system
// text, which is added where there is none.
void AttachToSystem(Conversation& conversation) {
  std::vector<ConversationTurn>& turns = conversation.turns;
  // Before the first user turn, a developer is the system under its new name.
  for (ConversationTurn& turn : turns) {
    if (turn.role == "developer") turn.role = "system";
    if (turn.role != "system") break;
  }
  if (conversation.tools.is_null() && conversation.response_format.is_null()) {
    return;
  }
  if (turns.front().role != "system") {
    turns.emplace(turns.begin())->role = "system";
  }
  if (!conversation.tools.is_null()) {
    turns.front().tools = conversation.tools;
  }
  if (!conversation.response_format.is_null()) {
    turns.front().response_format = conversation.response_format;
  }
}

// One function a line; the members of OpenAI's wrapper around it are dropped.
std::string ToolSchemas(const OrderedJson& tools) {
  std::string text;
  for (const OrderedJson& tool : tools) {
    const bool is_wrapped = tool.is_object() && tool.contains("function");
    if (!text.empty()) text += '\n';
    text += DumpPythonJson(is_wrapped ? tool["function"] : tool);
  }
  return text;
}

bool HasTools(const ConversationTurn& turn) {
  return turn.tools.is_array() && !turn.tools.empty();
}

// The text of a system or developer turn with what it carries.
std::string SystemText(const ConversationTurn& turn, std::string_view head,
                       std::string_view tail) {
  std::string text = turn.content;
  if (HasTools(turn)) {
    Append(text, {"\n\n", head, ToolSchemas(turn.tools), tail});
  }
  if (!turn.response_format.is_null()) {
    Append(text,
           {"\n\n", kResponseFormatHead, DumpPythonJson(turn.response_format)});
  }
  return text;
}

// The block of calls that ends an assistant's turn.
absl::StatusOr<std::string> CallBlock(const ConversationTurn& turn,
                                      std::string_view name) {
  std::string text;
  Append(text, {"\n\n<", kDsml, name, ">\n"});
  for (const ConversationCall& call : turn.calls) {
    absl::StatusOr<OrderedJson> arguments = ArgumentsObject(turn, call);
    if (!arguments.ok()) return arguments.status();
    Append(text, {"<", kDsml, "invoke name=\"", call.name, "\">\n"});
    for (const auto& [key, value] : arguments->items()) {
      const bool is_string = value.is_string();
      const std::string shown =
          is_string ? value.get<std::string>() : DumpPythonJson(value);
      Append(text, {"<", kDsml, "parameter name=\"", key, "\" string=\"",
                    is_string ? "true" : "false", "\">", shown, "</", kDsml,
                    "parameter>\n"});
    }
    Append(text, {"</", kDsml, "invoke>\n"});
  }
  Append(text, {"</", kDsml, name, ">"});
  return text;
}

bool IsUserTurn(const ConversationTurn& turn) {
  return turn.role == "user" || turn.role == "developer";
}

// Number of turns up to and with the last user's.
size_t EndOfLastUserTurn(const std::vector<ConversationTurn>& turns) {
  const auto last = std::find_if(turns.rbegin(), turns.rend(), IsUserTurn);
  return static_cast<size_t>(turns.rend() - last);
}

std::string_view ThinkTag(bool thinks) { return thinks ? kThink : kEndThink; }

// V4 has no tool role: results and user texts that follow each other become
// one user turn, the results in the order of the calls they answer.
std::vector<ConversationTurn> MergeUserTurns(
    std::vector<ConversationTurn> turns) {
  struct Part {
    size_t order;  // of a result; unused for text
    bool is_result;
    std::string text;
  };
  std::vector<ConversationTurn> merged;
  const std::vector<ConversationCall>* calls = nullptr;
  std::vector<Part> parts;
  const auto flush = [&] {
    if (parts.empty()) return;
    std::vector<Part> results;
    for (Part& part : parts) {
      if (part.is_result) results.push_back(std::move(part));
    }
    std::ranges::stable_sort(results, {}, &Part::order);
    auto result = results.begin();
    ConversationTurn turn;
    turn.role = "user";
    const char* separator = "";
    for (const Part& part : parts) {
      Append(turn.content, {std::exchange(separator, "\n\n"),
                            part.is_result ? (result++)->text : part.text});
    }
    parts.clear();
    merged.push_back(std::move(turn));
  };
  for (const ConversationTurn& turn : turns) {
    if (turn.role == "tool") {
      size_t order = 0;
      const size_t count = calls == nullptr ? 0 : calls->size();
      while (order < count && (*calls)[order].id != turn.tool_call_id) ++order;
      parts.push_back(
          {order, true,
           absl::StrCat("<tool_result>", turn.content, "</tool_result>")});
    } else if (turn.role == "user") {
      parts.push_back({0, false, turn.content});
    } else {
      flush();
      if (turn.role == "assistant") calls = &turn.calls;
      merged.push_back(turn);
    }
  }
  flush();
  return merged;
}

}  // namespace

absl::StatusOr<std::string> EncodeV32(Conversation conversation) {
  AttachToSystem(conversation);
  const std::vector<ConversationTurn>& turns = conversation.turns;
  const size_t current = EndOfLastUserTurn(turns);
  std::string out(kBegin);
  // Whether the last token was a think tag, after which an answer goes on.
  bool is_open = false;
  for (size_t i = 0; i < turns.size(); ++i) {
    const ConversationTurn& turn = turns[i];
    const bool prompts =
        i + 1 < turns.size() || conversation.add_generation_prompt;
    // In the exchange that the last user turn began.
    const bool thinks = conversation.thinking && i + 1 >= current;
    if (turn.role == "system") {
      out += SystemText(turn, kV32ToolsHead, kV32ToolsTail);
      is_open = false;
    } else if (IsUserTurn(turn)) {
      Append(out, {kUser, SystemText(turn, kV32ToolsHead, kV32ToolsTail)});
      if (prompts) Append(out, {kAssistant, ThinkTag(thinks)});
      is_open = prompts;
    } else if (turn.role == "tool") {
      const bool first = i == 0 || turns[i - 1].role != "tool";
      const bool last = i + 1 == turns.size() || turns[i + 1].role != "tool";
      if (first) out += "\n\n<function_results>";
      Append(out, {"\n<result>", turn.content, "</result>"});
      if (last) out += "\n</function_results>";
      if (last && prompts) Append(out, {"\n\n", ThinkTag(thinks)});
      is_open = last && prompts;
    } else if (turn.role == "assistant") {
      if (!is_open) Append(out, {kAssistant, ThinkTag(thinks)});
      if (thinks) Append(out, {turn.reasoning, kEndThink});
      out += turn.content;
      if (!turn.calls.empty()) {
        absl::StatusOr<std::string> block = CallBlock(turn, "function_calls");
        if (!block.ok()) return block.status();
        out += *block;
      }
      out += kEnd;
      is_open = false;
    } else {
      return UnknownRole(turn);
    }
  }
  if (!is_open && conversation.add_generation_prompt) {
    Append(out, {kAssistant, ThinkTag(conversation.thinking)});
  }
  return out;
}

absl::StatusOr<std::string> EncodeV4(Conversation conversation) {
  AttachToSystem(conversation);
  const bool has_tools = std::ranges::any_of(conversation.turns, HasTools);
  std::vector<ConversationTurn> turns =
      MergeUserTurns(std::move(conversation.turns));
  const size_t current = EndOfLastUserTurn(turns);
  std::string out(kBegin);
  if (conversation.thinking && conversation.reasoning_effort == "max") {
    out += kV4EffortMax;
  }
  for (size_t i = 0; i < turns.size(); ++i) {
    const ConversationTurn& turn = turns[i];
    const bool keeps = has_tools || i >= current;
    if (turn.role == "system") {
      out += SystemText(turn, kV4ToolsHead, kV4ToolsTail);
    } else if (turn.role == "user") {
      Append(out, {kUser, turn.content});
    } else if (turn.role == "developer") {
      // Gone with the reasoning it led to.
      const bool is_dropped =
          conversation.thinking && !has_tools && i + 1 < current;
      if (is_dropped) continue;
      Append(out, {kUser, SystemText(turn, kV4ToolsHead, kV4ToolsTail)});
    } else if (turn.role == "latest_reminder") {
      Append(out, {"<｜latest_reminder｜>", turn.content});
    } else if (turn.role == "assistant") {
      const bool thinks = conversation.thinking && keeps;
      Append(out, {kAssistant, ThinkTag(thinks)});
      if (thinks) Append(out, {turn.reasoning, kEndThink});
      out += turn.content;
      if (!turn.calls.empty()) {
        absl::StatusOr<std::string> block = CallBlock(turn, "tool_calls");
        if (!block.ok()) return block.status();
        out += *block;
      }
      out += kEnd;
    } else {
      return UnknownRole(turn);
    }
  }
  if (conversation.add_generation_prompt) {
    Append(out, {kAssistant, ThinkTag(conversation.thinking)});
  }
  return out;
}

}  // namespace shoal
