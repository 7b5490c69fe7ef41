#include "kernels/cpu/moe_route.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

namespace shoal::cpu {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

void Score(RouterScoring scoring, std::span<const float> logits,
           std::span<float> scores) {
  const size_t n = logits.size();
  switch (scoring) {
    case RouterScoring::kSoftmax: {
      const float max = *std::max_element(logits.begin(), logits.end());
      float sum = 0;
      for (size_t e = 0; e < n; ++e) {
        scores[e] = std::exp(logits[e] - max);
        sum += scores[e];
      }
      for (float& score : scores) score /= sum;
      return;
    }
    case RouterScoring::kSigmoid:
      for (size_t e = 0; e < n; ++e) {
        scores[e] = 1.0f / (1.0f + std::exp(-logits[e]));
      }
      return;
    case RouterScoring::kSqrtSoftplus:
      for (size_t e = 0; e < n; ++e) {
        const float z = logits[e];
        scores[e] = std::sqrt(z > 20.0f ? z : std::log1p(std::exp(z)));
      }
      return;
  }
}

float GroupValue(GroupScore kind, std::span<const float> choices) {
  float best = kNever;
  float second = kNever;
  for (float value : choices) {
    if (value > best) {
      second = best;
      best = value;
    } else if (value > second) {
      second = value;
    }
  }
  if (kind == GroupScore::kMax || choices.size() < 2) return best;
  return best + second;
}

// Index of the largest value; the first one of equals. -1 if all are kNever.
int32_t ArgMax(std::span<const float> values) {
  int32_t best = -1;
  float best_value = kNever;
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] > best_value) {
      best_value = values[i];
      best = static_cast<int32_t>(i);
    }
  }
  return best;
}

// Takes the experts of all but the topk_group best groups out of `choices`.
void KeepBestGroups(const MoeRouteParams& params, std::span<float> choices,
                    std::span<float> group_values) {
  const int32_t group_size = params.num_experts / params.n_group;
  for (int32_t g = 0; g < params.n_group; ++g) {
    group_values[g] = GroupValue(params.group_score,
                                 choices.subspan(g * group_size, group_size));
  }
  for (int32_t kept = 0; kept < params.topk_group; ++kept) {
    const int32_t best = ArgMax(group_values);
    if (best < 0) break;
    group_values[best] = std::numeric_limits<float>::quiet_NaN();  // kept
  }
  for (int32_t g = 0; g < params.n_group; ++g) {
    if (std::isnan(group_values[g])) continue;
    for (float& choice : choices.subspan(g * group_size, group_size)) {
      choice = kNever;
    }
  }
}

}  // namespace

void RouteTokens(const MoeRouteParams& params, int64_t first, int64_t last,
                 float* scratch) {
  const int32_t num_experts = params.num_experts;
  const std::span<float> scores(scratch, num_experts);
  const std::span<float> choices(scratch + num_experts, num_experts);
  const std::span<float> group_values(scratch + 2 * num_experts,
                                      params.n_group);
  for (int64_t t = first; t < last; ++t) {
    int32_t* ids = params.expert_ids + t * params.top_k;
    float* weights = params.expert_weights + t * params.top_k;
    Score(params.scoring, {params.logits + t * num_experts, scores.size()},
          scores);
    if (params.forced_ids != nullptr) {
      std::copy_n(params.forced_ids + t * params.top_k, params.top_k, ids);
    } else {
      for (int32_t e = 0; e < num_experts; ++e) {
        choices[e] =
            scores[e] + (params.bias == nullptr ? 0.0f : params.bias[e]);
      }
      if (params.n_group > 1) KeepBestGroups(params, choices, group_values);
      for (int32_t k = 0; k < params.top_k; ++k) {
        // Non-finite logits leave nothing to choose: the token skips the slot.
        ids[k] = ArgMax(choices);
        if (ids[k] >= 0) choices[ids[k]] = kNever;
      }
    }
    std::sort(ids, ids + params.top_k);
    float sum = 0;
    for (int32_t k = 0; k < params.top_k; ++k) {
      weights[k] = ids[k] < 0 ? 0.0f : scores[ids[k]];
      sum += weights[k];
    }
    const float norm = params.norm_topk_prob ? 1.0f / (sum + 1e-20f) : 1.0f;
    for (int32_t k = 0; k < params.top_k; ++k) {
      weights[k] *= norm * params.routed_scaling_factor;
    }
  }
}

}  // namespace shoal::cpu
