// DeepSeek-V4's attention: all heads share one vector a token that is key and
// value at once. A token sees the last sliding_window of them, kept in a ring a
// sequence, and, in layers with a compression ratio, entries that stand for
// windows of earlier tokens: every one of them (HCA) or those that an indexer
// chooses (CSA). Heads have a sink; results are rotated back.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/loading/model_config.h"
#include "engine/models/block.h"
#include "engine/models/compressor.h"
#include "engine/models/weight_loader.h"

namespace shoal {

class V4Attention : public Block {
 public:
  // Tensors under `prefix` ("model.layers.3.self_attn."). `config` must outlive
  // this.
  V4Attention(const ModelConfig& config, int layer, const std::string& prefix,
              WeightLoader& loader);

  absl::Status Forward(const StepContext& step, const float* x,
                       float* residual) override;
  int64_t ScratchFloats(int64_t num_tokens) const override;

 private:
  void Rotate(const StepContext& step, float* rows, int64_t heads,
              int64_t width, bool inverse) const;
  SlotLists ChooseEntries(const StepContext& step, const float* x,
                          const float* q_latent, float* scratch) const;
  void Attend(const StepContext& step, const float* q, const void* new_rows,
              const SlotLists& entries, float* out) const;
  void Project(const StepContext& step, const float* attended, float* scratch,
               float* residual) const;
  void WriteRing(const StepContext& step, const float* kv) const;

  const ModelConfig& config_;
  const int layer_;
  const int32_t ratio_;
  std::unique_ptr<PackedMatrix> q_a_proj_, q_b_proj_, kv_proj_, o_b_proj_;
  std::vector<std::unique_ptr<HeadWeight>> o_a_proj_;  // one a group of heads
  DeviceArray<float> q_norm_, kv_norm_, sinks_;
  std::unique_ptr<Compressor> compressor_;  // nullptr: the window only
  std::unique_ptr<PackedMatrix> index_q_proj_, index_weights_proj_;
  std::unique_ptr<Compressor> index_compressor_;  // nullptr: every entry
};

}  // namespace shoal
