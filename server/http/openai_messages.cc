#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/http/openai_request.h"

namespace shoal {
namespace {

constexpr size_t kMaxMessages = 4096;
constexpr size_t kMaxTools = 128;

// A string, or text parts joined by line breaks, as vLLM does.
std::string ReadContent(const Json& content, JsonFields& fields) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) {
    fields.Fail("content", "must be a string or an array of parts",
                "invalid_type");
    return "";
  }
  std::string text;
  for (const Json& part : content) {
    const bool is_text = part.is_object() && part.contains("type") &&
                         part["type"] == "text" && part.contains("text") &&
                         part["text"].is_string();
    if (!is_text) {
      fields.Fail("content", "may hold parts of type \"text\" only",
                  "unsupported_content");
      return "";
    }
    if (!text.empty()) text += '\n';
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

std::vector<ToolCall> ReadToolCalls(const Json& array, const std::string& path,
                                    JsonFields& fields) {
  std::vector<ToolCall> calls;
  if (!array.is_array()) {
    fields.Fail("tool_calls", "must be an array", "invalid_type");
    return calls;
  }
  for (size_t i = 0; i < array.size(); ++i) {
    const Json* function = nullptr;
    if (array[i].is_object()) {
      const auto it = array[i].find("function");
      if (it != array[i].end() && it->is_object()) function = &*it;
    }
    if (function == nullptr) {
      fields.Fail(absl::StrCat("tool_calls[", i, "]"),
                  "must be an object with a \"function\"", "invalid_type");
      return calls;
    }
    JsonFields outer(array[i], absl::StrCat(path, "tool_calls[", i, "]."));
    JsonFields inner(*function,
                     absl::StrCat(path, "tool_calls[", i, "].function."));
    ToolCall call;
    call.id = outer.String("id").value_or("");
    call.name = inner.String("name").value_or("");
    call.arguments = inner.String("arguments").value_or("{}");
    if (call.name.empty()) inner.Fail("name", "is required", "missing");
    fields.Adopt(outer.status());
    fields.Adopt(inner.status());
    calls.push_back(std::move(call));
  }
  return calls;
}

ChatMessage ReadMessage(const Json& json, const std::string& path,
                        JsonFields& parent) {
  static const std::set<std::string> kRoles = {"system", "developer", "user",
                                               "assistant", "tool"};
  JsonFields fields(json, path);
  ChatMessage message;
  message.role = fields.String("role").value_or("");
  if (!kRoles.contains(message.role)) {
    fields.Fail("role",
                "must be one of system, developer, user, assistant, tool");
  }
  message.name = fields.String("name").value_or("");
  message.tool_call_id = fields.String("tool_call_id").value_or("");
  message.reasoning_content = fields.String("reasoning_content").value_or("");
  if (message.reasoning_content.empty()) {
    message.reasoning_content = fields.String("reasoning").value_or("");
  }
  if (const Json* calls = fields.Get("tool_calls")) {
    message.tool_calls = ReadToolCalls(*calls, path, fields);
  }
  if (const Json* content = fields.Get("content")) {
    message.content = ReadContent(*content, fields);
  } else if (message.role != "assistant") {
    fields.Fail("content", "is required", "missing");
  }
  parent.Adopt(fields.status());
  return message;
}

}  // namespace

ChatPrompt ReadChatPrompt(JsonFields& fields) {
  ChatPrompt prompt;
  const Json* messages = fields.Get("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    fields.Fail("messages", "must be an array of at least one message",
                messages == nullptr ? "missing" : "invalid_value");
    return prompt;
  }
  if (messages->size() > kMaxMessages) {
    fields.Fail("messages",
                absl::StrCat("may hold at most ", kMaxMessages, " messages"));
    return prompt;
  }
  for (size_t i = 0; i < messages->size() && fields.ok(); ++i) {
    const std::string path = absl::StrCat("messages[", i, "]");
    if (!(*messages)[i].is_object()) {
      fields.Fail(path, "must be an object", "invalid_type");
      break;
    }
    prompt.messages.push_back(ReadMessage((*messages)[i], path + ".", fields));
  }
  if (const Json* tools = fields.Get("tools")) {
    bool objects = tools->is_array() && tools->size() <= kMaxTools;
    for (const Json& tool : *tools) objects = objects && tool.is_object();
    if (!objects) {
      fields.Fail("tools",
                  absl::StrCat("must be an array of at most ", kMaxTools,
                               " tool objects"),
                  "invalid_type");
    } else if (!tools->empty()) {
      prompt.tools_json = tools->dump();
    }
  }
  if (const Json* choice = fields.Get("tool_choice")) {
    if (*choice == "none") {
      prompt.tools_json.clear();
    } else if (*choice != "auto") {
      fields.Fail("tool_choice", "may be \"auto\" or \"none\"",
                  "unsupported_value");
    }
  }
  Json variables = Json::object();
  if (const Json* kwargs = fields.Get("chat_template_kwargs")) {
    if (kwargs->is_object()) {
      variables = *kwargs;
    } else {
      fields.Fail("chat_template_kwargs", "must be an object", "invalid_type");
    }
  }
  // Templates that know efforts read them from a variable of that name.
  if (auto effort = fields.String("reasoning_effort")) {
    variables.emplace("reasoning_effort", *std::move(effort));
  }
  if (!variables.empty()) prompt.template_kwargs_json = variables.dump();
  prompt.add_generation_prompt =
      fields.Bool("add_generation_prompt").value_or(true);
  return prompt;
}

}  // namespace shoal
