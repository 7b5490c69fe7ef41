#include "engine/models/gqa_attention.h"

#include <cmath>

namespace shoal {

GqaAttention::GqaAttention(const ModelConfig& config, int layer,
                           const std::string& prefix, WeightLoader& loader)
    : config_(config),
      layer_(layer),
      q_proj_(loader.Matrix(prefix + "q_proj.weight")),
      k_proj_(loader.Matrix(prefix + "k_proj.weight")),
      v_proj_(loader.Matrix(prefix + "v_proj.weight")),
      o_proj_(loader.Matrix(prefix + "o_proj.weight")) {
  if (config.attention_bias || config.qkv_bias) {
    q_bias_ = loader.Floats(prefix + "q_proj.bias");
    k_bias_ = loader.Floats(prefix + "k_proj.bias");
    v_bias_ = loader.Floats(prefix + "v_proj.bias");
  }
  if (config.attention_bias) o_bias_ = loader.Floats(prefix + "o_proj.bias");
  if (config.qk_norm) {
    q_norm_ = loader.Floats(prefix + "q_norm.weight");
    k_norm_ = loader.Floats(prefix + "k_norm.weight");
  }
}

int64_t GqaAttention::ScratchFloats(int64_t num_tokens) const {
  const int64_t q_width = config_.num_attention_heads * config_.head_dim;
  const int64_t kv_width = config_.num_key_value_heads * config_.head_dim;
  return num_tokens * (2 * q_width + 2 * kv_width);
}

absl::Status GqaAttention::Forward(const StepContext& step, const float* x,
                                   float* residual) {
  const int64_t num_tokens = step.batch.num_tokens();
  const int64_t head_dim = config_.head_dim;
  const int64_t num_heads = config_.num_attention_heads;
  const int64_t num_kv_heads = config_.num_key_value_heads;
  const int64_t q_width = num_heads * head_dim;
  const int64_t kv_width = num_kv_heads * head_dim;
  float* q = step.scratch;
  float* k = q + num_tokens * q_width;
  float* v = k + num_tokens * kv_width;
  float* attended = v + num_tokens * kv_width;
  KernelTable& kernels = step.kernels;

  const LinearPart qkv[] = {{q_proj_.get(), q_bias_.data(), q},
                            {k_proj_.get(), k_bias_.data(), k},
                            {v_proj_.get(), v_bias_.data(), v}};
  kernels.Linear({x, num_tokens, config_.hidden_size, qkv});

  const int64_t num_blocks = step.cache.num_blocks();
  const int64_t block_size = step.cache.block_size();
  const auto rows_of = [&](int group) {
    const TensorView cache = step.cache.tensor(group, layer_);
    return TensorView(cache.data, cache.dtype,
                      {num_blocks * block_size, kv_width});
  };
  const auto blocks_of = [&](int group) {
    const TensorView cache = step.cache.tensor(group, layer_);
    return ConstTensorView(cache.data, cache.dtype,
                           {num_blocks, block_size, num_kv_heads, head_dim});
  };
  HeadsWriteParams write;
  write.q = q;
  write.k = k;
  write.v = v;
  write.q_norm = q_norm_.data();
  write.k_norm = k_norm_.data();
  write.cos = step.inputs.rope.cos;
  write.sin = step.inputs.rope.sin;
  write.slot_mapping = step.inputs.slot_mapping;
  write.k_cache = rows_of(0);
  write.v_cache = rows_of(1);
  write.k_order = step.cache.layout().groups[0].order;
  write.v_order = step.cache.layout().groups[1].order;
  write.num_tokens = num_tokens;
  write.num_heads = static_cast<int32_t>(num_heads);
  write.num_kv_heads = static_cast<int32_t>(num_kv_heads);
  write.head_dim = static_cast<int32_t>(head_dim);
  write.layout = config_.rope_layout;
  write.eps = config_.rms_norm_eps;
  kernels.HeadsWrite(write);

  PagedAttentionParams attention;
  attention.k_cache = blocks_of(0);
  attention.v_cache = blocks_of(1);
  attention.q = q;
  attention.cu_seqlens_q = step.inputs.cu_seqlens_q;
  attention.context_lens = step.inputs.context_lens;
  attention.block_tables = step.inputs.block_tables;
  attention.out = attended;
  attention.num_seqs = step.batch.num_seqs();
  attention.max_seqlen_q = step.inputs.max_seqlen_q;
  attention.max_blocks = step.batch.max_blocks;
  attention.block_size = static_cast<int32_t>(block_size);
  attention.num_heads = static_cast<int32_t>(num_heads);
  attention.num_kv_heads = static_cast<int32_t>(num_kv_heads);
  attention.head_dim = static_cast<int32_t>(head_dim);
  attention.v_dim = attention.head_dim;
  attention.tiled = step.cache.layout().groups[0].order != CacheOrder::kRows;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  kernels.PagedAttention(attention);

  const LinearPart out[] = {
      {o_proj_.get(), o_bias_.data(), residual, /*accumulate=*/true}};
  kernels.Linear({attended, num_tokens, q_width, out});
  return absl::OkStatus();
}

}  // namespace shoal
