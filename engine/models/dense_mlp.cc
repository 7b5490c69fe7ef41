#include "engine/models/dense_mlp.h"

namespace shoal {

DenseMlp::DenseMlp(const ModelConfig& config, const std::string& prefix,
                   WeightLoader& loader)
    : swiglu_limit_(config.swiglu_limit),
      gate_proj_(loader.Matrix(prefix + "gate_proj.weight")),
      up_proj_(loader.Matrix(prefix + "up_proj.weight")),
      down_proj_(loader.Matrix(prefix + "down_proj.weight")) {
  if (config.mlp_bias) {
    gate_bias_ = loader.Floats(prefix + "gate_proj.bias");
    up_bias_ = loader.Floats(prefix + "up_proj.bias");
    down_bias_ = loader.Floats(prefix + "down_proj.bias");
  }
}

int64_t DenseMlp::ScratchFloats(int64_t num_tokens) const {
  return gate_proj_ == nullptr ? 0
                               : 2 * num_tokens * gate_proj_->out_features();
}

absl::Status DenseMlp::Forward(const StepContext& step, const float* x,
                               float* residual) {
  const int64_t num_tokens = step.batch.num_tokens();
  const int64_t width = gate_proj_->out_features();
  float* gate = step.scratch;
  float* up = gate + num_tokens * width;
  step.kernels.GatedLinear({x,
                            num_tokens,
                            gate_proj_->in_features(),
                            {gate_proj_.get(), gate_bias_.data(), gate},
                            {up_proj_.get(), up_bias_.data(), up},
                            swiglu_limit_});
  const LinearPart down[] = {
      {down_proj_.get(), down_bias_.data(), residual, /*accumulate=*/true}};
  step.kernels.Linear({gate, num_tokens, width, down});
  return absl::OkStatus();
}

}  // namespace shoal
