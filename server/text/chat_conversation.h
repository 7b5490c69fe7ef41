// What the chat formats read: messages, tools and variables, parsed and
// checked. For the encoders of chat_formats.h and model_text.cc only.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "server/text/chat_tokens.h"
#include "server/text/model_text.h"

namespace shoal {

// Keeps the order of keys: prompts show it.
using OrderedJson = nlohmann::ordered_json;

inline void Append(std::string& out,
                   std::initializer_list<std::string_view> parts) {
  for (std::string_view part : parts) out += part;
}

struct ConversationCall {
  std::string id;
  std::string name;
  OrderedJson arguments;  // an object, or JSON text as a string
};

struct ConversationTurn {
  size_t index = 0;  // of the message, for errors
  std::string role;
  std::string content;
  std::string reasoning;     // assistant
  std::string tool_call_id;  // tool
  std::vector<ConversationCall> calls;
  OrderedJson tools;            // array or null
  OrderedJson response_format;  // schema or null
};

struct Conversation {
  std::vector<ConversationTurn> turns;
  bool thinking = false;
  std::string reasoning_effort;  // may be empty
  OrderedJson tools;             // of the request: array or null
  OrderedJson response_format;   // of the request: schema or null
  bool add_generation_prompt = true;
};

// InvalidArgument naming what is not as ChatTemplateInput says.
absl::StatusOr<Conversation> ParseConversation(const ChatTemplateInput& input);

// As Python's json.dumps(ensure_ascii=False): ", " and ": ", keys as given.
std::string DumpPythonJson(const OrderedJson& value);

// The arguments of a call as JSON text.
std::string ArgumentsText(const ConversationCall& call);
// The arguments of a call of `turn` as an object.
absl::StatusOr<OrderedJson> ArgumentsObject(const ConversationTurn& turn,
                                            const ConversationCall& call);

// InvalidArgument "messages[3]: ...".
absl::Status BadTurn(const ConversationTurn& turn, const std::string& what);
absl::Status UnknownRole(const ConversationTurn& turn);

// The formats whose tools are DSML blocks; REQUIRES: kV32 or kV4.
absl::StatusOr<std::string> EncodeV32(Conversation conversation);
absl::StatusOr<std::string> EncodeV4(Conversation conversation);

}  // namespace shoal
