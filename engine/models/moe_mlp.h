// Mixture of experts of the DeepSeek family: a router in f32 picks experts for
// each token, or in V4's first layers a table by the token's id; the shared
// experts, one fused MLP, see every token.
#pragma once

#include <memory>
#include <string>

#include "engine/experts/expert_store.h"
#include "engine/experts/expert_tiers.h"
#include "engine/loading/model_config.h"
#include "engine/models/block.h"
#include "engine/models/weight_loader.h"

namespace shoal {

class MoeMlp : public Block {
 public:
  // Tensors under `prefix` ("model.layers.3.mlp."); errors stay in the loader.
  // `config` and `kernels` must outlive this. `tiers`: has the experts, and
  // must outlive this; nullptr: they are in the table's memory.
  MoeMlp(const ModelConfig& config, int layer, const std::string& prefix,
         KernelTable& kernels, ExpertTiers* tiers, WeightLoader& loader);

  absl::Status Forward(const StepContext& step, const float* x,
                       float* residual) override;
  int64_t ScratchFloats(int64_t num_tokens) const override;

 private:
  MoeRouteParams Routing(const StepContext& step) const;
  int64_t SharedScratch() const;

  const ModelConfig& config_;
  const int layer_;
  std::unique_ptr<PackedMatrix> router_;  // [n_routed_experts, hidden_size]
  DeviceArray<float> correction_bias_;    // empty: none
  DeviceArray<int32_t> token_experts_;    // [vocab_size, top_k], or empty
  std::unique_ptr<ExpertStore> experts_;
  PackedExpert shared_;  // the shared experts, fused; or empty
};

}  // namespace shoal
