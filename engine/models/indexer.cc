#include "engine/models/indexer.h"

namespace shoal {
namespace {

constexpr float kKeyNormEps = 1e-6f;  // fixed in the reference

}  // namespace

Indexer::Indexer(const ModelConfig& config, int group, int layer,
                 const std::string& prefix, WeightLoader& loader)
    : config_(config),
      group_(group),
      layer_(layer),
      q_proj_(loader.Matrix(prefix + "wq_b.weight")),
      k_proj_(loader.Matrix(prefix + "wk.weight")),
      weights_proj_(loader.ExactMatrix(prefix + "weights_proj.weight")),
      k_norm_(loader.Floats(prefix + "k_norm.weight")),
      k_norm_bias_(loader.Floats(prefix + "k_norm.bias")) {}

int64_t Indexer::ScratchFloats(int64_t num_tokens) const {
  const int64_t heads = config_.index_n_heads;
  return num_tokens * ((heads + 1) * config_.index_head_dim + heads);
}

// The first values of a head, halves apart: unlike the main attention.
void Indexer::Rotate(const StepContext& step, float* rows,
                     int64_t heads) const {
  RopeParams rope;
  rope.x = rows;
  rope.cos = step.inputs.rope.cos;
  rope.sin = step.inputs.rope.sin;
  rope.num_tokens = step.batch.num_tokens();
  rope.num_heads = static_cast<int32_t>(heads);
  rope.head_dim = static_cast<int32_t>(config_.index_head_dim);
  rope.rotary_dim = static_cast<int32_t>(config_.qk_rope_head_dim);
  rope.token_stride = heads * config_.index_head_dim;
  rope.layout = RopeLayout::kHalfSplit;
  step.kernels.Rope(rope);
}

void Indexer::CacheKeys(const StepContext& step, const float* x,
                        float* scratch) {
  const int64_t num_tokens = step.batch.num_tokens();
  const int64_t width = config_.index_head_dim;
  float* keys = scratch;
  const LinearPart key[] = {{k_proj_.get(), nullptr, keys}};
  step.kernels.Linear({x, num_tokens, config_.hidden_size, key});
  step.kernels.LayerNorm({keys, k_norm_.data(), k_norm_bias_.data(), keys,
                          num_tokens, width, kKeyNormEps});
  Rotate(step, keys, 1);
  const TensorView cache = step.cache.tensor(group_, layer_);
  step.kernels.CacheWrite(
      {keys, step.inputs.slot_mapping, num_tokens, width, width,
       TensorView(cache.data, cache.dtype,
                  {int64_t{step.cache.num_blocks()} * step.cache.block_size(),
                   width})});
}

void Indexer::Select(const StepContext& step, const float* x,
                     const float* q_latent, float* scratch, int32_t* slots,
                     int32_t* num_selected) {
  CacheKeys(step, x, scratch);
  const int64_t num_tokens = step.batch.num_tokens();
  const int64_t heads = config_.index_n_heads;
  float* q = scratch;
  float* weights = q + num_tokens * heads * config_.index_head_dim;
  const LinearPart query[] = {{q_proj_.get(), nullptr, q}};
  step.kernels.Linear({q_latent, num_tokens, config_.q_lora_rank, query});
  Rotate(step, q, heads);
  // The reference scales both by powers of the head's width and number, which
  // changes no choice.
  const LinearPart weight[] = {{weights_proj_.get(), nullptr, weights}};
  step.kernels.Linear({x, num_tokens, config_.hidden_size, weight});

  KeySelectParams select;
  select.q = q;
  select.weights = weights;
  select.keys = ConstTensorView(step.cache.tensor(group_, layer_));
  select.cu_seqlens_q = step.inputs.cu_seqlens_q;
  select.block_tables = step.inputs.block_tables;
  select.num_visible = step.inputs.num_visible;
  select.num_seqs = step.batch.num_seqs();
  select.max_blocks = step.batch.max_blocks;
  select.keys_per_block = step.cache.block_size();
  select.num_heads = static_cast<int32_t>(heads);
  select.head_dim = static_cast<int32_t>(config_.index_head_dim);
  select.top_k = static_cast<int32_t>(config_.index_topk);
  select.slots = slots;
  select.num_selected = num_selected;
  step.kernels.KeySelect(select);
}

}  // namespace shoal
