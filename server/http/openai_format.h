// The pieces of OpenAI's responses: one place for both kinds of answer (whole
// and streamed) and both endpoints.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/generation.h"
#include "server/http/json.h"

namespace shoal {

// "stop", "length" or "tool_calls"; REQUIRES: the sequence ended well.
const char* FinishReasonName(FinishReason reason, bool called_tools);
// Whether a sequence ended by itself, and not by a fault, deadline or cancel.
bool EndedWell(const GenerationDelta& last);
// What to tell the client of a sequence that did not end well.
absl::Status EndError(const GenerationDelta& last);
// vLLM's "stop_reason": the stop string, the stop token's id, or null.
Json StopReason(const GenerationDelta& last);

// {"content": [...]} of chat.
Json ChatLogprobs(const std::vector<PositionTextLogprobs>& positions);
// {"text_offset", "token_logprobs", "tokens", "top_logprobs"} of completions.
// `offset`: characters of this sequence before; moved on.
Json CompletionLogprobs(const std::vector<PositionTextLogprobs>& positions,
                        int64_t* offset);
// vLLM's: null for the first prompt token, then a map by token id each.
Json PromptLogprobs(const std::vector<PositionTextLogprobs>& positions);

Json UsageJson(int64_t prompt_tokens, int64_t cached_tokens,
               int64_t completion_tokens);

// {"index", "id", "type", "function": {"name", "arguments"}}: the first delta
// of a call; a later one has its arguments only.
Json ToolCallDelta(const GenerationDelta& delta);

}  // namespace shoal
