#include "engine/sampling/sampling_params.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

// Entries a request may bring in a list of token ids.
constexpr size_t kMaxListed = 4096;

absl::Status Bad(const char* name, const std::string& expected,
                 const absl::AlphaNum& got) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": expected ", expected, ", got ", got));
}

absl::Status CheckRange(const char* name, float value, double low, double high,
                        const char* expected) {
  // Written so that NaN fails.
  if (value >= low && value <= high && std::isfinite(value)) {
    return absl::OkStatus();
  }
  return Bad(name, expected, value);
}

absl::Status CheckTokens(const char* name, const std::vector<int32_t>& tokens,
                         int64_t vocab_size) {
  if (tokens.size() > kMaxListed) {
    return Bad(name, absl::StrCat("at most ", kMaxListed, " ids"),
               tokens.size());
  }
  for (int32_t token : tokens) {
    if (token < 0 || token >= vocab_size) {
      return Bad(name, absl::StrCat("token ids in [0, ", vocab_size, ")"),
                 token);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateSamplingParams(const SamplingParams& p,
                                    int64_t vocab_size) {
  const absl::Status ranges[] = {
      CheckRange("temperature", p.temperature, 0, 100, "0 to 100"),
      CheckRange("min_p", p.min_p, 0, 1, "0 to 1"),
      CheckRange("presence_penalty", p.presence_penalty, -2, 2, "-2 to 2"),
      CheckRange("frequency_penalty", p.frequency_penalty, -2, 2, "-2 to 2"),
      CheckTokens("stop_token_ids", p.stop_token_ids, vocab_size),
      CheckTokens("allowed_token_ids", p.allowed_token_ids, vocab_size)};
  for (const absl::Status& status : ranges) {
    if (!status.ok()) return status;
  }
  if (!(p.top_p > 0 && p.top_p <= 1)) {
    return Bad("top_p", "more than 0, at most 1", p.top_p);
  }
  if (!(p.repetition_penalty > 0 && p.repetition_penalty <= 100)) {
    return Bad("repetition_penalty", "more than 0, at most 100",
               p.repetition_penalty);
  }
  if (p.top_k < 0) return Bad("top_k", "0 (off) or more", p.top_k);
  if (p.max_tokens < 1) return Bad("max_tokens", "at least 1", p.max_tokens);
  if (p.min_tokens < 0 || p.min_tokens > p.max_tokens) {
    return Bad("min_tokens",
               absl::StrCat("0 to max_tokens (", p.max_tokens, ")"),
               p.min_tokens);
  }
  if (p.logit_bias.size() > kMaxListed) {
    return Bad("logit_bias", absl::StrCat("at most ", kMaxListed, " entries"),
               p.logit_bias.size());
  }
  for (const auto& [token, bias] : p.logit_bias) {
    if (token < 0 || token >= vocab_size) {
      return Bad("logit_bias",
                 absl::StrCat("token ids in [0, ", vocab_size, ")"), token);
    }
    if (!(bias >= -100 && bias <= 100)) {
      return Bad("logit_bias", "values of -100 to 100", bias);
    }
  }
  for (const auto& [name, value] :
       {std::pair("logprobs", p.logprobs),
        std::pair("prompt_logprobs", p.prompt_logprobs)}) {
    if (value < -1 || value > vocab_size) {
      return Bad(name, absl::StrCat("0 to the vocabulary's ", vocab_size),
                 value);
    }
  }
  return absl::OkStatus();
}

}  // namespace shoal
