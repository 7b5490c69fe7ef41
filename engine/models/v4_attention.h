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
#include "engine/models/rope.h"
#include "engine/models/weight_loader.h"

namespace shoal {

class V4Attention : public Block {
 public:
  // Tensors under `prefix` ("model.layers.3.self_attn."). `compress_rope` turns
  // compressed entries. All references must outlive this.
  V4Attention(const ModelConfig& config, const RotaryEmbedding& compress_rope,
              int layer, const std::string& prefix, WeightLoader& loader);

  absl::Status Forward(const StepContext& step, const float* x,
                       float* residual) override;
  int64_t ScratchFloats(int64_t num_tokens) const override;

 private:
  // Rows that tokens attend to, as lists of slots.
  struct SlotLists {
    std::vector<int32_t> slots;   // [num_tokens, max_keys]
    std::vector<int32_t> counts;  // [num_tokens]
    int32_t max_keys = 0;

    void Reset(int64_t num_tokens, int32_t max_keys);
    void Add(int64_t token, int32_t slot) {
      slots[token * max_keys + counts[token]++] = slot;
    }
  };

  void Rotate(const StepContext& step, float* rows, int64_t heads,
              int64_t width, bool inverse) const;
  void ListWindow(const StepBatch& batch);
  void ListAllEntries(const StepContext& step);
  void ChooseEntries(const StepContext& step, const float* x,
                     const float* q_latent, float* scratch);
  void Attend(const StepContext& step, const float* q, const void* new_rows,
              float* out) const;
  void Project(const StepContext& step, const float* attended, float* scratch,
               float* residual);
  void WriteRing(const StepContext& step, const float* kv);

  const ModelConfig& config_;
  const int layer_;
  const int32_t ratio_;
  std::unique_ptr<PackedMatrix> q_a_proj_, q_b_proj_, kv_proj_, o_b_proj_;
  std::vector<std::unique_ptr<HeadWeight>> o_a_proj_;  // one a group of heads
  std::vector<float> q_norm_, kv_norm_, sinks_;
  std::unique_ptr<Compressor> compressor_;  // nullptr: the window only
  std::unique_ptr<PackedMatrix> index_q_proj_, index_weights_proj_;
  std::unique_ptr<Compressor> index_compressor_;  // nullptr: every entry

  SlotLists ring_, new_, entries_;
  std::vector<int32_t> visible_;
  std::vector<int64_t> identity_, ring_slots_;
  std::vector<int32_t> from_rows_, to_rows_;
};

}  // namespace shoal
