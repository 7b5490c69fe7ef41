// Grouped-query attention of llama, qwen2 and qwen3: q, k and v in one product
// group, optional per-head norms (qwen3) before the rotation, K and V in the
// cache groups 0 ("k") and 1 ("v").
#pragma once

#include <memory>
#include <string>

#include "engine/loading/model_config.h"
#include "engine/models/block.h"
#include "engine/models/weight_loader.h"

namespace shoal {

class GqaAttention : public Block {
 public:
  // Tensors under `prefix` ("model.layers.3.self_attn."); errors stay in the
  // loader. `config` must outlive this.
  GqaAttention(const ModelConfig& config, int layer, const std::string& prefix,
               WeightLoader& loader);

  absl::Status Forward(const StepContext& step, const float* x,
                       float* residual) override;
  int64_t ScratchFloats(int64_t num_tokens) const override;

 private:
  const ModelConfig& config_;
  const int layer_;
  std::unique_ptr<PackedMatrix> q_proj_, k_proj_, v_proj_, o_proj_;
  DeviceArray<float> q_bias_, k_bias_, v_bias_, o_bias_;  // empty: none
  DeviceArray<float> q_norm_, k_norm_;                    // empty: none
};

}  // namespace shoal
