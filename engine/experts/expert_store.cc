#include "engine/experts/expert_store.h"

#include "absl/strings/str_cat.h"

namespace shoal {

ExpertStore::ExpertStore(const ModelConfig& config, const std::string& prefix,
                         WeightLoader& loader)
    : config_(config) {
  const auto load = [&](const std::string& name) {
    matrices_.push_back(loader.Matrix(name));
    return matrices_.back().get();
  };
  for (int64_t e = 0; e < config.n_routed_experts && loader.status().ok();
       ++e) {
    const std::string expert = absl::StrCat(prefix, e, ".");
    experts_.push_back({load(expert + "gate_proj.weight"),
                        load(expert + "up_proj.weight"),
                        load(expert + "down_proj.weight")});
  }
}

void ExpertStore::Run(KernelTable& kernels, const ExpertChoice& choice,
                      const float* x, float* out) const {
  const int64_t top_k = config_.num_experts_per_tok;
  MoeExpertsParams experts;
  experts.in = x;
  experts.expert_ids = choice.ids;
  experts.expert_weights = choice.weights;
  experts.experts = experts_;
  experts.num_tokens = choice.num_tokens;
  experts.top_k = static_cast<int32_t>(top_k);
  experts.hidden_size = config_.hidden_size;
  experts.intermediate_size = config_.moe_intermediate_size;
  experts.swiglu_limit = config_.swiglu_limit;
  experts.out = out;
  kernels.MoeExperts(experts);
}

}  // namespace shoal
