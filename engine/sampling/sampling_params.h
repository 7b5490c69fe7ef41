// SamplingParams says how tokens of one sequence are chosen and when it ends.
// Plain data; ValidateSamplingParams() is the one place that judges values.
// Stop strings are not here: text is the server's business.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace shoal {

// Restricts the next token (grammar, JSON schema). One object a sequence;
// called on the step thread only.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  // Sets logits of tokens that may not follow to -inf. [vocab_size]
  virtual absl::Status Mask(std::span<float> logits) = 0;
  // The chosen token. InvalidArgument if it was not allowed.
  virtual absl::Status Accept(int32_t token) = 0;
};

struct SamplingParams {
  float temperature = 1;         // 0: greedy; finite, >= 0
  int32_t top_k = 0;             // 0: off
  float top_p = 1;               // (0, 1]
  float min_p = 0;               // [0, 1]
  float repetition_penalty = 1;  // > 0; prompt and completion tokens
  float presence_penalty = 0;    // [-2, 2]; completion tokens
  float frequency_penalty = 0;   // [-2, 2]; completion tokens
  std::vector<std::pair<int32_t, float>> logit_bias;  // token id, added value
  std::vector<int32_t> allowed_token_ids;             // empty: all
  std::optional<uint64_t> seed;         // absent: drawn by the engine
  int32_t max_tokens = 0;               // completion tokens, >= 1
  int32_t min_tokens = 0;               // no stop id before that many
  std::vector<int32_t> stop_token_ids;  // besides the model's eos ids
  bool ignore_eos = false;
  // Number of most likely alternatives reported with each completion token;
  // -1: no logprobs at all, 0: the chosen token's only, up to vocab_size.
  int32_t logprobs = -1;
  // Like logprobs, for each prompt token given the ones before.
  int32_t prompt_logprobs = -1;
};

// InvalidArgument naming the parameter, what it may be, and what was given.
absl::Status ValidateSamplingParams(const SamplingParams& params,
                                    int64_t vocab_size);

// One token with its natural-log probability under the unmodified
// distribution (before penalties and temperature) and its 1-based rank.
struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
  int32_t rank = 0;
};

// What is known of one position: the chosen (or given) token first, then the
// asked-for number of most likely ones in falling order.
struct PositionLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;
};

}  // namespace shoal
