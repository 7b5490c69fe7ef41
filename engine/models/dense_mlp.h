// SwiGLU MLP: down(silu(gate(x)) ⊙ up(x)).
#pragma once

#include <memory>
#include <string>

#include "engine/loading/model_config.h"
#include "engine/models/block.h"
#include "engine/models/weight_loader.h"

namespace shoal {

class DenseMlp : public Block {
 public:
  // Tensors under `prefix` ("model.layers.3.mlp."); errors stay in the loader.
  DenseMlp(const ModelConfig& config, const std::string& prefix,
           WeightLoader& loader);

  absl::Status Forward(const StepContext& step, const float* x,
                       float* residual) override;
  int64_t ScratchFloats(int64_t num_tokens) const override;

 private:
  const float swiglu_limit_;
  std::unique_ptr<PackedMatrix> gate_proj_, up_proj_, down_proj_;
  DeviceArray<float> gate_bias_, up_bias_, down_bias_;  // empty: none
};

}  // namespace shoal
