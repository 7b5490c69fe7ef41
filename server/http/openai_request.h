// Turns bodies of POST /v1/chat/completions and /v1/completions into
// GenerationRequests. What OpenAI and vLLM clients send is understood or, where
// ignoring it would change what they get, refused by name; unknown members are
// ignored. Values are judged here as far as they need no model.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "server/generation.h"
#include "server/http/http_message.h"
#include "server/http/json.h"

namespace shoal {

struct OpenAiRequest {
  bool chat = false;
  bool stream = false;
  bool include_usage = false;
  // One a prompt (completions take several), each with the same `n`.
  std::vector<GenerationRequest> generations;
};

// InvalidArgument with param and code.
absl::StatusOr<OpenAiRequest> ParseChatRequest(const HttpRequest& request);
absl::StatusOr<OpenAiRequest> ParseCompletionRequest(
    const HttpRequest& request);

// Reads "messages", "tools", "chat_template_kwargs", "add_generation_prompt" of
// a chat body; what is wrong goes into `fields`.
ChatPrompt ReadChatPrompt(JsonFields& fields);

}  // namespace shoal
