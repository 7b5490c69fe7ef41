// Mixture of experts: choosing experts for each token, and running the chosen
// ones with each expert's weights read once a call however many tokens chose
// it. Router arithmetic is f32 throughout.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/linear.h"

namespace shoal {

enum class RouterScoring : uint8_t {
  kSoftmax,       // softmax(z)
  kSigmoid,       // 1 / (1 + e^-z)
  kSqrtSoftplus,  // sqrt(ln(1 + e^z))
};
enum class GroupScore : uint8_t {
  kMax,       // a group is worth its best score (DeepSeek-V2)
  kTopTwoSum  // the sum of its two best biased scores (DeepSeek-V3)
};

// Picks top_k of num_experts for each token. With n_group > 1 only experts of
// the topk_group best groups may be picked. Selection uses score + bias,
// weights use the score alone:
//   weight_e = score_e [/ (Σ chosen scores + 1e-20)] · routed_scaling_factor
// Ties go to the lower expert id; chosen experts come out in rising id order,
// so that later sums have one order. With `forced_ids` selection is skipped.
struct MoeRouteParams {
  // With a router the logits are made first, as Linear() does:
  //   logits[t] = router · in[t]
  const PackedMatrix* router = nullptr;  // [num_experts, hidden] or nullptr
  const float* in = nullptr;             // [num_tokens, hidden], for the router
  float* logits = nullptr;               // [num_tokens, num_experts]
  const float* bias = nullptr;  // [num_experts] or nullptr; selection only
  const int32_t* forced_ids = nullptr;  // [num_tokens, top_k] or nullptr
  int64_t num_tokens = 0;
  int32_t num_experts = 0;
  int32_t top_k = 0;
  int32_t n_group = 1;  // divides num_experts
  int32_t topk_group = 1;
  RouterScoring scoring = RouterScoring::kSoftmax;
  GroupScore group_score = GroupScore::kMax;
  bool norm_topk_prob = false;
  float routed_scaling_factor = 1;
  int32_t* expert_ids = nullptr;    // out [num_tokens, top_k]
  float* expert_weights = nullptr;  // out [num_tokens, top_k]
};

// One expert: down( silu(gate x) ⊙ up x ). All three or none.
struct ExpertWeights {
  const PackedMatrix* gate = nullptr;  // [moe_intermediate_size, hidden_size]
  const PackedMatrix* up = nullptr;    // like gate
  const PackedMatrix* down = nullptr;  // [hidden_size, moe_intermediate_size]

  bool is_here() const { return gate != nullptr; }
};

// out[t] += Σ_k expert_weights[t, k] · E_{expert_ids[t, k]}(in[t]), summed over
// k in order, then E_shared(in[t]): a token's result does not depend on the
// batch. Experts that no token chose are not read; those without weights lie
// elsewhere and are skipped as if they had not been chosen.
struct MoeExpertsParams {
  const float* in = nullptr;               // [num_tokens, hidden_size]
  const int32_t* expert_ids = nullptr;     // [num_tokens, top_k], -1 skips
  const float* expert_weights = nullptr;   // [num_tokens, top_k]
  std::span<const ExpertWeights> experts;  // of one shape and type each
  // The shared experts as one that every token has, of a size of its own; none
  // without weights.
  ExpertWeights shared;
  float* shared_scratch = nullptr;  // [2, num_tokens, its intermediate size]
  int64_t num_tokens = 0;
  int32_t top_k = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  float swiglu_limit = 0;  // as SiluMulParams::limit
  float* out = nullptr;    // [num_tokens, hidden_size]
};

}  // namespace shoal
