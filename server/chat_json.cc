#include "server/chat_json.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/errors.h"
#include "server/text/json_bounds.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

absl::Status Invalid(const std::string& param, const std::string& message) {
  return WithDetail(
      absl::InvalidArgumentError(absl::StrCat(param, ": ", message)), param,
      "invalid_value");
}

// `text` as JSON of the wanted kind.
absl::StatusOr<Json> Parse(const std::string& param, const std::string& text,
                           bool object) {
  if (!IsBoundedJson(text)) {
    return Invalid(param, "nested too deeply or too many members");
  }
  Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded() ||
      (object ? !value.is_object() : !value.is_array())) {
    return Invalid(param,
                   object ? "expected a JSON object" : "expected a JSON array");
  }
  return value;
}

absl::StatusOr<Json> MessageJson(const ChatMessage& message,
                                 const std::string& param) {
  static const std::set<std::string> kRoles = {"system", "developer", "user",
                                               "assistant", "tool"};
  if (kRoles.count(message.role) == 0) {
    return Invalid(param + ".role",
                   "expected system, developer, user, assistant or tool");
  }
  Json json = {{"role", message.role}, {"content", message.content}};
  if (!message.name.empty()) json["name"] = message.name;
  if (!message.reasoning_content.empty()) {
    json["reasoning_content"] = message.reasoning_content;
  }
  if (!message.tool_call_id.empty()) {
    json["tool_call_id"] = message.tool_call_id;
  }
  for (size_t i = 0; i < message.tool_calls.size(); ++i) {
    const ToolCall& call = message.tool_calls[i];
    // Templates print arguments with tojson, so they get the value, not a
    // string of it.
    absl::StatusOr<Json> arguments =
        Parse(absl::StrCat(param, ".tool_calls[", i, "].arguments"),
              call.arguments.empty() ? "{}" : call.arguments, true);
    if (!arguments.ok()) return arguments.status();
    json["tool_calls"].push_back(
        {{"id", call.id},
         {"type", "function"},
         {"function",
          {{"name", call.name}, {"arguments", *std::move(arguments)}}}});
  }
  return json;
}

}  // namespace

absl::StatusOr<ChatTemplateInput> MakeTemplateInput(const ChatPrompt& chat) {
  if (chat.messages.empty()) {
    return Invalid("messages", "expected at least one message");
  }
  Json messages = Json::array();
  for (size_t i = 0; i < chat.messages.size(); ++i) {
    absl::StatusOr<Json> message =
        MessageJson(chat.messages[i], absl::StrCat("messages[", i, "]"));
    if (!message.ok()) return message.status();
    messages.push_back(*std::move(message));
  }
  ChatTemplateInput input;
  if (!chat.tools_json.empty()) {
    absl::StatusOr<Json> tools = Parse("tools", chat.tools_json, false);
    if (!tools.ok()) return tools.status();
    if (!tools->empty()) input.tools_json = chat.tools_json;
  }
  if (!chat.template_kwargs_json.empty()) {
    absl::StatusOr<Json> kwargs =
        Parse("chat_template_kwargs", chat.template_kwargs_json, true);
    if (!kwargs.ok()) return kwargs.status();
    input.template_kwargs_json = chat.template_kwargs_json;
  }
  try {
    input.messages_json = messages.dump();
  } catch (const Json::exception&) {  // text that is not UTF-8
    return Invalid("messages", "expected valid UTF-8");
  }
  input.add_generation_prompt = chat.add_generation_prompt;
  return input;
}

}  // namespace shoal
