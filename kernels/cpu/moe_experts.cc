#include "kernels/cpu/moe_experts.h"

#include <algorithm>
#include <cstring>

namespace shoal::cpu {

void ExpertRunner::Run(const MoeExpertsParams& params, KernelTable& table) {
  const auto num_experts = static_cast<int32_t>(params.experts.size());
  slots_.resize(num_experts);
  for (std::vector<int32_t>& slots : slots_) slots.clear();
  size_t most = 0;
  for (int64_t s = 0; s < params.num_tokens * params.top_k; ++s) {
    const int32_t expert = params.expert_ids[s];
    if (expert < 0) continue;
    slots_[expert].push_back(static_cast<int32_t>(s));
    most = std::max(most, slots_[expert].size());
  }
  const auto grow = [most](std::vector<float>& buffer, int64_t width) {
    if (buffer.size() < most * width) buffer.resize(most * width);
  };
  grow(rows_, params.hidden_size);
  grow(gate_, params.intermediate_size);
  grow(up_, params.intermediate_size);
  grow(result_, params.hidden_size);

  // Experts in rising order: a token's sum then has one order, its own.
  for (int32_t e = 0; e < num_experts; ++e) {
    const std::vector<int32_t>& slots = slots_[e];
    if (slots.empty()) continue;
    const auto count = static_cast<int64_t>(slots.size());
    const ExpertWeights& expert = params.experts[e];
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(rows_.data() + i * params.hidden_size,
                  params.in + slots[i] / params.top_k * params.hidden_size,
                  params.hidden_size * sizeof(float));
    }
    const LinearPart gate_up[] = {{expert.gate, nullptr, gate_.data()},
                                  {expert.up, nullptr, up_.data()}};
    table.Linear({rows_.data(), count, params.hidden_size, gate_up});
    SiluMulParams silu;
    silu.gate = gate_.data();
    silu.up = up_.data();
    silu.out = gate_.data();
    silu.num_tokens = count;
    silu.width = params.intermediate_size;
    silu.limit = params.swiglu_limit;
    table.SiluMul(silu);
    const LinearPart down[] = {{expert.down, nullptr, result_.data()}};
    table.Linear({gate_.data(), count, params.intermediate_size, down});
    for (int64_t i = 0; i < count; ++i) {
      const float weight = params.expert_weights[slots[i]];
      const float* row = result_.data() + i * params.hidden_size;
      float* out = params.out + slots[i] / params.top_k * params.hidden_size;
      for (int64_t j = 0; j < params.hidden_size; ++j) {
        out[j] += weight * row[j];
      }
    }
  }
}

}  // namespace shoal::cpu
