// Sampler chooses the next token of one sequence from its logits. Order of
// operations, as in Hugging Face and vLLM:
//   allowed tokens, constraint, logit bias -> repetition, presence and frequency
//   penalties -> greedy, or temperature -> top-k -> top-p -> min-p -> draw
// The draw depends on (seed, number of tokens drawn so far, logits) only, so a
// preempted sequence goes on as it would have. Threads: step thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/sampling/sampling_params.h"

namespace shoal {

class Sampler {
 public:
  // REQUIRES: ValidateSamplingParams(params, vocab_size) is OK.
  Sampler(SamplingParams params, int64_t vocab_size, uint64_t seed,
          std::shared_ptr<TokenConstraint> constraint);

  // Prompt tokens count for the repetition penalty. Call once.
  void AddPrompt(std::span<const int32_t> token_ids);

  // Chooses a token; changes `logits` [vocab_size] in place. `forbidden`: ids
  // that may not come now (eos while min_tokens is not reached).
  // Internal: no finite logit is left, or a NaN came.
  absl::StatusOr<int32_t> Sample(std::span<float> logits,
                                 std::span<const int32_t> forbidden);
  // Notes a token as part of the completion. InvalidArgument if the constraint
  // refuses it.
  absl::Status Accept(int32_t token);

 private:
  void ApplyPenalties(std::span<float> logits) const;
  int32_t Draw(std::span<const float> logits);

  SamplingParams params_;
  int64_t vocab_size_;
  uint64_t seed_;
  uint64_t num_drawn_ = 0;
  std::shared_ptr<TokenConstraint> constraint_;
  std::vector<int32_t> counts_;     // [vocab_size] of the completion, if needed
  std::vector<bool> seen_;          // [vocab_size] prompt or completion
  std::vector<int32_t> touched_;    // ids that occur in either, each once
  std::vector<int32_t> candidates_;  // workspace
};

// log softmax(logits)[token], its rank, and the `num_top` most likely tokens,
// ties by lower id. One row at a time, so that memory stays bounded.
// REQUIRES: 0 <= chosen < logits.size(), num_top <= logits.size().
PositionLogprobs ComputeLogprobs(std::span<const float> logits, int32_t chosen,
                                 int32_t num_top);

// The lowest id with the largest logit.
int32_t ArgMax(std::span<const float> logits);

}  // namespace shoal
