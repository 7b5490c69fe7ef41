#include "server/text/chat_conversation.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/text/json_bounds.h"

namespace shoal {
namespace {

// Arguments of calls, themselves bounded, lie five deep.
constexpr size_t kMaxDepth = 80;

absl::Status Bad(const std::string& what) {
  return absl::InvalidArgumentError(what);
}

absl::StatusOr<OrderedJson> Parse(const std::string& what,
                                  const std::string& text) {
  if (!IsBoundedJson(text, kMaxDepth)) {
    return Bad(absl::StrCat(what, ": nested too deeply or too many members"));
  }
  OrderedJson json =
      OrderedJson::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Bad(absl::StrCat(what, ": expected JSON"));
  return json;
}

// A member that may be absent or null.
const OrderedJson* Find(const OrderedJson& object, const char* key) {
  const auto member = object.find(key);
  return member == object.end() || member->is_null() ? nullptr : &*member;
}

// Empty when absent; nullptr: not a string.
const std::string* FindString(const OrderedJson& object, const char* key) {
  static const std::string kEmpty;
  const OrderedJson* value = Find(object, key);
  if (value == nullptr) return &kEmpty;
  return value->get_ptr<const std::string*>();
}

absl::Status ReadCalls(const OrderedJson& list, ConversationTurn& turn) {
  if (!list.is_array()) return BadTurn(turn, "tool_calls: expected an array");
  for (const OrderedJson& item : list) {
    const OrderedJson* function =
        item.is_object() ? Find(item, "function") : nullptr;
    if (function == nullptr || !function->is_object()) {
      return BadTurn(turn, "tool_calls: expected objects with a function");
    }
    const std::string* id = FindString(item, "id");
    const std::string* name = FindString(*function, "name");
    if (id == nullptr || name == nullptr || name->empty()) {
      return BadTurn(turn, "tool_calls: expected a function's name");
    }
    ConversationCall& call = turn.calls.emplace_back();
    call.id = *id;
    call.name = *name;
    const OrderedJson* arguments = Find(*function, "arguments");
    call.arguments = arguments == nullptr ? OrderedJson::object() : *arguments;
    if (!call.arguments.is_object() && !call.arguments.is_string()) {
      return BadTurn(turn, "tool_calls: expected arguments in an object");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadTurn(const OrderedJson& json, ConversationTurn& turn) {
  if (!json.is_object()) return BadTurn(turn, "expected an object");
  const struct {
    const char* key;
    std::string& out;
  } texts[] = {{"role", turn.role},
               {"content", turn.content},
               {"reasoning_content", turn.reasoning},
               {"tool_call_id", turn.tool_call_id}};
  for (const auto& [key, out] : texts) {
    const std::string* text = FindString(json, key);
    if (text == nullptr) {
      return BadTurn(turn, absl::StrCat(key, ": expected a string"));
    }
    out = *text;
  }
  if (turn.role.empty()) return BadTurn(turn, "expected a role");
  if (const OrderedJson* calls = Find(json, "tool_calls")) {
    if (turn.role != "assistant" && !calls->empty()) {
      return BadTurn(turn, "only an assistant calls tools");
    }
    absl::Status status = ReadCalls(*calls, turn);
    if (!status.ok()) return status;
  }
  if (const OrderedJson* tools = Find(json, "tools")) {
    if (!tools->is_array()) return BadTurn(turn, "tools: expected an array");
    turn.tools = *tools;
  }
  if (const OrderedJson* schema = Find(json, "response_format")) {
    turn.response_format = *schema;
  }
  return absl::OkStatus();
}

absl::Status ReadVariables(const std::string& text, Conversation& out) {
  absl::StatusOr<OrderedJson> json = Parse("chat_template_kwargs", text);
  if (!json.ok()) return json.status();
  if (!json->is_object()) {
    return Bad("chat_template_kwargs: expected a JSON object");
  }
  const std::string* effort = FindString(*json, "reasoning_effort");
  if (effort == nullptr) return Bad("reasoning_effort: expected a string");
  out.reasoning_effort = *effort;
  out.thinking = !effort->empty() && *effort != "none";
  for (const char* name : {"enable_thinking", "thinking"}) {
    const OrderedJson* value = Find(*json, name);
    if (value == nullptr) continue;
    if (!value->is_boolean()) {
      return Bad(absl::StrCat(name, ": expected true or false"));
    }
    out.thinking = value->get<bool>();
  }
  if (const OrderedJson* schema = Find(*json, "response_format")) {
    out.response_format = *schema;
  }
  return absl::OkStatus();
}

void Dump(const OrderedJson& value, std::string& out) {
  const char* separator = "";
  switch (value.type()) {
    case OrderedJson::value_t::object:
      out += '{';
      for (const auto& [key, member] : value.items()) {
        Append(out,
               {std::exchange(separator, ", "), OrderedJson(key).dump(), ": "});
        Dump(member, out);
      }
      out += '}';
      break;
    case OrderedJson::value_t::array:
      out += '[';
      for (const OrderedJson& element : value) {
        out += std::exchange(separator, ", ");
        Dump(element, out);
      }
      out += ']';
      break;
    default:
      out += value.dump();
  }
}

}  // namespace

absl::Status BadTurn(const ConversationTurn& turn, const std::string& what) {
  return Bad(absl::StrCat("messages[", turn.index, "]: ", what));
}

absl::Status UnknownRole(const ConversationTurn& turn) {
  return BadTurn(turn, "expected a role of system, user, assistant or tool");
}

absl::StatusOr<Conversation> ParseConversation(const ChatTemplateInput& input) {
  absl::StatusOr<OrderedJson> messages = Parse("messages", input.messages_json);
  if (!messages.ok()) return messages.status();
  if (!messages->is_array() || messages->empty()) {
    return Bad("messages: expected an array of at least one message");
  }
  Conversation result;
  result.add_generation_prompt = input.add_generation_prompt;
  for (size_t i = 0; i < messages->size(); ++i) {
    ConversationTurn& turn = result.turns.emplace_back();
    turn.index = i;
    absl::Status status = ReadTurn((*messages)[i], turn);
    if (!status.ok()) return status;
  }
  if (!input.tools_json.empty()) {
    absl::StatusOr<OrderedJson> tools = Parse("tools", input.tools_json);
    if (!tools.ok()) return tools.status();
    if (!tools->is_array()) return Bad("tools: expected a JSON array");
    if (!tools->empty()) result.tools = *std::move(tools);
  }
  if (!input.template_kwargs_json.empty()) {
    absl::Status status = ReadVariables(input.template_kwargs_json, result);
    if (!status.ok()) return status;
  }
  return result;
}

std::string DumpPythonJson(const OrderedJson& value) {
  std::string text;
  Dump(value, text);
  return text;
}

std::string ArgumentsText(const ConversationCall& call) {
  return call.arguments.is_string() ? call.arguments.get<std::string>()
                                    : DumpPythonJson(call.arguments);
}

absl::StatusOr<OrderedJson> ArgumentsObject(const ConversationTurn& turn,
                                            const ConversationCall& call) {
  if (call.arguments.is_object()) return call.arguments;
  const std::string& text = call.arguments.get_ref<const std::string&>();
  OrderedJson json;
  if (IsBoundedJson(text)) {
    json = OrderedJson::parse(text.empty() ? "{}" : text, nullptr,
                              /*allow_exceptions=*/false);
  }
  if (!json.is_object()) {
    return BadTurn(turn, "tool_calls: expected arguments in a JSON object");
  }
  return json;
}

}  // namespace shoal
