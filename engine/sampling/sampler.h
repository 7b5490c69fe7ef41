// Sampler chooses the next token of one sequence from its logits. Order of
// operations, as in Hugging Face and vLLM:
//   allowed tokens, constraint, logit bias -> repetition, presence and
//   frequency penalties -> greedy, or temperature -> top-k -> top-p -> min-p ->
//   draw
// What follows the penalties is kernels/sampling.h's. The draw depends on
// (seed, number of tokens drawn so far, logits) only, so a preempted sequence
// goes on as it would have. Threads: step thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "engine/sampling/sampling_params.h"
#include "kernels/sampling.h"

namespace shoal {

class Sampler {
 public:
  // REQUIRES: ValidateSamplingParams() accepts `params`.
  Sampler(SamplingParams params, uint64_t seed,
          std::shared_ptr<TokenConstraint> constraint);

  // Prompt tokens count for the repetition penalty. Call once.
  void AddPrompt(std::span<const int32_t> token_ids);

  // Chooses a token; changes `logits` [vocab_size] in place. `forbidden`: ids
  // that may not come now (eos while min_tokens is not reached).
  // Internal: a NaN, or no token is left to choose.
  absl::StatusOr<int32_t> Sample(std::span<float> logits,
                                 std::span<const int32_t> forbidden);
  // Whether Sample() without forbidden ones changes no logits: who makes the
  // next draw need not bring them to it.
  bool is_plain() const;
  // How the next token is drawn from changed logits; counts as drawn.
  TokenDraw NextDraw();
  // Notes a token as part of the completion. InvalidArgument if the constraint
  // refuses it.
  absl::Status Accept(int32_t token);

 private:
  absl::Status Restrict(std::span<float> logits,
                        std::span<const int32_t> forbidden) const;
  void ApplyPenalties(std::span<float> logits) const;

  const SamplingParams params_;
  const uint64_t seed_;
  uint64_t num_drawn_ = 0;
  const std::shared_ptr<TokenConstraint> constraint_;
  absl::flat_hash_set<int32_t> seen_;  // prompt or completion, if needed
  absl::flat_hash_map<int32_t, int32_t>
      counts_;  // of the completion, if needed
  TokenDrawer drawer_;
};

// log softmax(logits)[token], its rank, and the `num_top` most likely tokens,
// ties by lower id. One row at a time, so that memory stays bounded.
// REQUIRES: 0 <= chosen < logits.size(), num_top <= logits.size().
PositionLogprobs ComputeLogprobs(std::span<const float> logits, int32_t chosen,
                                 int32_t num_top);

// The lowest id with the largest logit.
int32_t ArgMax(std::span<const float> logits);

}  // namespace shoal
