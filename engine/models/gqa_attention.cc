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

  const auto prepare = [&](float* heads, int64_t count,
                           const DeviceArray<float>& norm) {
    if (!norm.empty()) {
      kernels.RmsNorm({heads, norm.data(), heads, num_tokens * count, head_dim,
                       head_dim, head_dim, config_.rms_norm_eps});
    }
    RopeParams rope;
    rope.x = heads;
    rope.cos = step.inputs.rope.cos;
    rope.sin = step.inputs.rope.sin;
    rope.num_tokens = num_tokens;
    rope.num_heads = static_cast<int32_t>(count);
    rope.head_dim = static_cast<int32_t>(head_dim);
    rope.rotary_dim = static_cast<int32_t>(head_dim);
    rope.token_stride = count * head_dim;
    rope.layout = config_.rope_layout;
    kernels.Rope(rope);
  };
  prepare(q, num_heads, q_norm_);
  prepare(k, num_kv_heads, k_norm_);

  const int64_t num_blocks = step.cache.num_blocks();
  const int64_t block_size = step.cache.block_size();
  const auto write = [&](int group, const float* rows) {
    const TensorView tensor = step.cache.tensor(group, layer_);
    kernels.CacheWrite({rows, step.inputs.slot_mapping, num_tokens, kv_width,
                        kv_width,
                        TensorView(tensor.data, tensor.dtype,
                                   {num_blocks * block_size, kv_width}),
                        step.cache.layout().groups[group].order,
                        static_cast<int32_t>(head_dim)});
    return ConstTensorView(tensor.data, tensor.dtype,
                           {num_blocks, block_size, num_kv_heads, head_dim});
  };
  PagedAttentionParams attention;
  attention.k_cache = write(0, k);
  attention.v_cache = write(1, v);
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
