#include "engine/experts/expert_store.h"

#include "absl/strings/str_cat.h"

namespace shoal {

PackedExpert PackedExpert::Load(const std::string& prefix,
                                WeightLoader& loader) {
  PackedExpert expert;
  expert.gate = loader.Matrix(prefix + "gate_proj.weight");
  expert.up = loader.Matrix(prefix + "up_proj.weight");
  expert.down = loader.Matrix(prefix + "down_proj.weight");
  return expert;
}

MoeExpertsParams ExpertParams(const ModelConfig& config) {
  MoeExpertsParams params;
  params.top_k = static_cast<int32_t>(config.num_experts_per_tok);
  params.hidden_size = config.hidden_size;
  params.intermediate_size = config.moe_intermediate_size;
  params.swiglu_limit = config.swiglu_limit;
  return params;
}

OneTierExperts::OneTierExperts(const ModelConfig& config,
                               const std::string& prefix, KernelTable& kernels,
                               WeightLoader& loader)
    : config_(config), kernels_(kernels) {
  for (int64_t e = 0; e < config.n_routed_experts && loader.status().ok();
       ++e) {
    experts_.push_back(
        PackedExpert::Load(absl::StrCat(prefix, e, "."), loader));
    weights_.push_back(experts_.back().weights());
  }
}

absl::Status OneTierExperts::Begin(const ExpertChoice& choice,
                                   const SharedExperts& shared, const float* x,
                                   float* out) {
  MoeExpertsParams params = ExpertParams(config_);
  params.shared = shared.weights;
  params.shared_scratch = shared.scratch;
  params.in = x;
  params.expert_ids = choice.ids;
  params.expert_weights = choice.weights;
  params.experts = weights_;
  params.num_tokens = choice.num_tokens;
  params.out = out;
  kernels_.MoeExperts(params);
  return absl::OkStatus();
}

absl::Status OneTierExperts::Finish(float* /*out*/) { return absl::OkStatus(); }

}  // namespace shoal
