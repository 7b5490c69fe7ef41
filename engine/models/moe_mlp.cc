#include "engine/models/moe_mlp.h"

namespace shoal {

MoeMlp::MoeMlp(const ModelConfig& config, int layer, const std::string& prefix,
               KernelTable& kernels, ExpertTiers* tiers, WeightLoader& loader)
    : config_(config),
      layer_(layer),
      router_(loader.ExactMatrix(prefix + "gate.weight")),
      correction_bias_(
          loader.OptionalFloats(prefix + "gate.e_score_correction_bias")) {
  if (tiers != nullptr) {
    experts_ = tiers->MakeStore(prefix + "experts.", loader);
  } else {
    experts_ = std::make_unique<OneTierExperts>(config, prefix + "experts.",
                                                kernels, loader);
  }
  if (config.is_hash_layer(layer)) {
    token_experts_ =
        loader.Ids(prefix + "gate.tid2eid.weight", config.n_routed_experts);
  }
  if (config.n_shared_experts > 0) {
    shared_ = PackedExpert::Load(prefix + "shared_experts.", loader);
  }
}

// Floats a token.
int64_t MoeMlp::SharedScratch() const {
  return 2 * config_.n_shared_experts * config_.moe_intermediate_size;
}

int64_t MoeMlp::ScratchFloats(int64_t num_tokens) const {
  // Ids are as large as floats.
  const int64_t routing =
      config_.n_routed_experts + 3 * config_.num_experts_per_tok;
  return num_tokens * (SharedScratch() + routing);
}

// What does not depend on the tokens.
MoeRouteParams MoeMlp::Routing(const StepContext& step) const {
  MoeRouteParams route;
  route.bias = correction_bias_.data();
  route.num_tokens = step.batch.num_tokens();
  route.num_experts = static_cast<int32_t>(config_.n_routed_experts);
  route.top_k = static_cast<int32_t>(config_.num_experts_per_tok);
  if (config_.topk_method != TopkMethod::kGreedy) {
    route.n_group = static_cast<int32_t>(config_.n_group);
    route.topk_group = static_cast<int32_t>(config_.topk_group);
  }
  route.group_score = config_.topk_method == TopkMethod::kNoauxTc
                          ? GroupScore::kTopTwoSum
                          : GroupScore::kMax;
  switch (config_.scoring_func) {
    case ScoringFunc::kSoftmax:
      route.scoring = RouterScoring::kSoftmax;
      break;
    case ScoringFunc::kSigmoid:
      route.scoring = RouterScoring::kSigmoid;
      break;
    case ScoringFunc::kSqrtSoftplus:
      route.scoring = RouterScoring::kSqrtSoftplus;
      break;
  }
  route.norm_topk_prob = config_.norm_topk_prob;
  route.routed_scaling_factor =
      static_cast<float>(config_.routed_scaling_factor);
  return route;
}

absl::Status MoeMlp::Forward(const StepContext& step, const float* x,
                             float* residual) {
  const int64_t num_tokens = step.batch.num_tokens();
  const int64_t top_k = config_.num_experts_per_tok;
  float* shared_scratch = step.scratch;
  float* logits = shared_scratch + num_tokens * SharedScratch();
  float* weights = logits + num_tokens * config_.n_routed_experts;
  auto* ids = reinterpret_cast<int32_t*>(weights + num_tokens * top_k);
  int32_t* forced = ids + num_tokens * top_k;
  if (step.expert_load != nullptr) {
    ids = step.expert_load->choices(layer_, num_tokens);
  }

  MoeRouteParams route = Routing(step);
  route.router = router_.get();
  route.in = x;
  route.logits = logits;
  if (!token_experts_.empty()) {
    step.kernels.CopyRows({ConstTensorView(token_experts_.data(), DType::kI32,
                                           {config_.vocab_size, top_k}),
                           TensorView(forced, DType::kI32, {num_tokens, top_k}),
                           step.inputs.token_ids, step.inputs.rows,
                           num_tokens});
    route.forced_ids = forced;
  }
  route.expert_ids = ids;
  route.expert_weights = weights;
  step.kernels.MoeRoute(route);
  const absl::Status status =
      experts_->Begin({ids, weights, num_tokens},
                      {shared_.weights(), shared_scratch}, x, residual);
  return status.ok() ? experts_->Finish(residual) : status;
}

}  // namespace shoal
