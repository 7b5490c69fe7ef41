// Multi-head latent attention of DeepSeek-V2 and V3 (arXiv 2405.04434, section
// 2.1). What is cached of a token is one row that all heads share: its latent c
// (kv_lora_rank values, normalised), then its rotated key part r
// (qk_rope_head_dim values). Heads attend to it in absorbed form: with the rows
// of kv_b_proj that belong to head h split into [Uk_h ; Uv_h],
//   q~_h = Uk_hᵀ q_nope_h;  score = scale · (q~_h·c + q_rope_h·r)
//   a_h = Σ softmax(score) c;  o_h = Uv_h a_h
// which reads kv_lora_rank + qk_rope_head_dim values a cached token, whatever
// the number of heads. A long chunk of a prompt takes fewer operations with
// k = Uk_h c and v = Uv_h c expanded once for all its tokens. Cache group 0
// ("latent"); V3.2 adds an indexer, whose keys are group 1, and attends to the
// rows it chooses.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/loading/model_config.h"
#include "engine/models/block.h"
#include "engine/models/decoder.h"
#include "engine/models/indexer.h"
#include "engine/models/weight_loader.h"

namespace shoal {

class MlaAttention : public Block {
 public:
  // Tensors under `prefix` ("model.layers.3.self_attn."); errors stay in the
  // loader. `config` must outlive this.
  MlaAttention(const ModelConfig& config, MlaForm form, int layer,
               const std::string& prefix, WeightLoader& loader);

  absl::Status Forward(const StepContext& step, const float* x,
                       float* residual) override;
  int64_t ScratchFloats(int64_t num_tokens) const override;

 private:
  void LoadHeads(const std::string& prefix, WeightLoader& loader);
  // A run of sequences [first, last) of the batch with their tokens.
  struct Run {
    int32_t first = 0;
    int32_t last = 0;
  };
  // Memory of one Forward, [num_tokens, num_attention_heads, ..] each.
  struct Rows {
    float* q = nullptr;         // qk_nope_head_dim + qk_rope_head_dim
    float* absorbed = nullptr;  // kv_lora_rank + qk_rope_head_dim
    float* attended = nullptr;  // kv_lora_rank
    float* values = nullptr;    // v_head_dim
  };

  bool Expands(const StepBatch& batch, int32_t seq) const;
  void Absorb(const StepContext& step, const Rows& rows, const Run& run);
  void ExpandValues(const StepContext& step, const Rows& rows, const Run& run);
  void AttendAbsorbed(const StepContext& step, const Rows& rows,
                      const Run& run);
  void AttendExpanded(const StepContext& step, const Rows& rows,
                      const Run& run);
  void AttendSelected(const StepContext& step, const Rows& rows,
                      const int32_t* slots, const int32_t* num_selected);
  // Every token to every earlier one, run by run in the cheaper form.
  void AttendAll(const StepContext& step, const Rows& rows);

  const ModelConfig& config_;
  const MlaForm form_;
  const int layer_;
  const float scale_;
  // q_proj_ alone, or q_a_proj_, q_a_norm_ and q_b_proj_.
  std::unique_ptr<PackedMatrix> q_proj_, q_a_proj_, q_b_proj_;
  std::unique_ptr<PackedMatrix> kv_a_proj_, o_proj_;
  DeviceArray<float> q_a_norm_, kv_a_norm_;
  // Of each head: Uk_hᵀ [kv_lora_rank, qk_nope_head_dim] and
  // Uv_h [v_head_dim, kv_lora_rank], in memory of ours.
  std::vector<std::unique_ptr<HeadWeight>> k_heads_, v_heads_;
  std::vector<const PackedMatrix*> k_weights_, v_weights_;
  std::unique_ptr<Indexer> indexer_;  // nullptr: attends to every token
};

// Whether a chunk of q_len new tokens that ends a context of context_len costs
// fewer multiply-adds in expanded form.
bool ExpandedMlaIsCheaper(const ModelConfig& config, int64_t q_len,
                          int64_t context_len);

// (qk_nope_head_dim + qk_rope_head_dim)^-0.5, times YaRN's factor squared.
float MlaSoftmaxScale(const ModelConfig& config);

}  // namespace shoal
