#include "server/http/openai_format.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace shoal {
namespace {

// JSON knows no infinity; clients expect this number instead.
constexpr float kLowestLogprob = -9999;

float Printable(float logprob) {
  return std::isnan(logprob) ? kLowestLogprob
                             : std::max(logprob, kLowestLogprob);
}

int64_t NumCharacters(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  });
}

Json TokenJson(const TextLogprob& token) {
  Json bytes = Json::array();
  for (char c : token.bytes) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", token.text},
          {"logprob", Printable(token.logprob)},
          {"bytes", std::move(bytes)}};
}

}  // namespace

const char* FinishReasonName(FinishReason reason, bool called_tools) {
  if (reason == FinishReason::kLength) return "length";
  return called_tools ? "tool_calls" : "stop";
}

bool EndedWell(const GenerationDelta& last) {
  return last.finish_reason == FinishReason::kStop ||
         last.finish_reason == FinishReason::kLength;
}

absl::Status EndError(const GenerationDelta& last) {
  if (!last.status.ok()) return last.status;
  switch (last.finish_reason.value_or(FinishReason::kError)) {
    case FinishReason::kCancelled:
      return WithDetail(
          absl::UnavailableError("The server stopped this request"), "",
          "cancelled");
    case FinishReason::kDeadline:
      return WithDetail(absl::DeadlineExceededError("The deadline has passed"),
                        "", "deadline_exceeded");
    default:
      return absl::InternalError("the engine failed");
  }
}

Json StopReason(const GenerationDelta& last) {
  if (!last.matched_stop.empty()) return last.matched_stop;
  if (last.matched_stop_token >= 0) return last.matched_stop_token;
  return nullptr;
}

Json ChatLogprobs(const std::vector<PositionTextLogprobs>& positions) {
  Json content = Json::array();
  for (const PositionTextLogprobs& position : positions) {
    Json token = TokenJson(position.chosen);
    Json top = Json::array();
    for (const TextLogprob& other : position.top) {
      top.push_back(TokenJson(other));
    }
    token["top_logprobs"] = std::move(top);
    content.push_back(std::move(token));
  }
  return {{"content", std::move(content)}};
}

Json CompletionLogprobs(const std::vector<PositionTextLogprobs>& positions,
                        int64_t* offset) {
  Json offsets = Json::array();
  Json logprobs = Json::array();
  Json tokens = Json::array();
  Json tops = Json::array();
  for (const PositionTextLogprobs& position : positions) {
    offsets.push_back(*offset);
    *offset += NumCharacters(position.chosen.text);
    logprobs.push_back(Printable(position.chosen.logprob));
    tokens.push_back(position.chosen.text);
    Json top = Json::object();
    for (const TextLogprob& other : position.top) {
      top.emplace(other.text, Printable(other.logprob));
    }
    if (!position.top.empty()) {
      top.emplace(position.chosen.text, Printable(position.chosen.logprob));
    }
    tops.push_back(std::move(top));
  }
  return {{"text_offset", std::move(offsets)},
          {"token_logprobs", std::move(logprobs)},
          {"tokens", std::move(tokens)},
          {"top_logprobs", std::move(tops)}};
}

Json PromptLogprobs(const std::vector<PositionTextLogprobs>& positions) {
  Json result = Json::array({nullptr});
  for (const PositionTextLogprobs& position : positions) {
    Json by_id = Json::object();
    const auto add = [&](const TextLogprob& token) {
      by_id.emplace(absl::StrCat(token.token),
                    Json{{"logprob", Printable(token.logprob)},
                         {"rank", token.rank},
                         {"decoded_token", token.text}});
    };
    add(position.chosen);
    for (const TextLogprob& other : position.top) add(other);
    result.push_back(std::move(by_id));
  }
  return result;
}

Json UsageJson(int64_t prompt_tokens, int64_t cached_tokens,
               int64_t completion_tokens) {
  return {{"prompt_tokens", prompt_tokens},
          {"total_tokens", prompt_tokens + completion_tokens},
          {"completion_tokens", completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", cached_tokens}}}};
}

Json ToolCallDelta(const GenerationDelta& delta) {
  Json call = {{"index", delta.tool_call_index}};
  if (!delta.tool_name.empty()) {
    call["id"] = delta.tool_call_id;
    call["type"] = "function";
    call["function"] = {{"name", delta.tool_name}, {"arguments", delta.text}};
  } else {
    call["function"] = {{"arguments", delta.text}};
  }
  return call;
}

}  // namespace shoal
