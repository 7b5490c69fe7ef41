#include "engine/models/decoder_stack.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/models/cache_layouts.h"
#include "engine/models/dense_mlp.h"
#include "engine/models/gqa_attention.h"
#include "engine/models/mla_attention.h"
#include "engine/models/moe_mlp.h"
#include "kernels/check.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<Decoder>> MakeDecoder(
    const Checkpoint& checkpoint, const DecoderOptions& options,
    KernelTable& kernels, const LoadProgress& progress) {
  return DecoderStack::Create(checkpoint, options, kernels, progress);
}

DecoderStack::DecoderStack(const ModelConfig& config,
                           const DecoderOptions& options, KernelTable& kernels)
    : config_(config),
      options_(options),
      kernels_(kernels),
      cache_layout_(MakeCacheLayout(config, options.kv_cache_dtype)),
      rope_(config, static_cast<int32_t>(config.kv_lora_rank > 0
                                             ? config.qk_rope_head_dim
                                             : config.head_dim)) {
  SHOAL_CHECK(options.max_tokens_per_step > 0);
}

absl::StatusOr<std::unique_ptr<Decoder>> DecoderStack::Create(
    const Checkpoint& checkpoint, const DecoderOptions& options,
    KernelTable& kernels, const LoadProgress& progress) {
  std::unique_ptr<DecoderStack> stack(
      new DecoderStack(checkpoint.config(), options, kernels));
  WeightLoader loader(checkpoint, kernels, options.precision);
  stack->embed_tokens_ = loader.View("model.embed_tokens.weight");
  stack->final_norm_ = loader.Floats("model.norm.weight");
  stack->lm_head_ = loader.Matrix(checkpoint.Contains("lm_head.weight")
                                      ? "lm_head.weight"
                                      : "model.embed_tokens.weight");
  stack->LoadLayers(loader, progress);
  if (!loader.status().ok()) return loader.status();
  stack->weight_bytes_ = loader.bytes();
  absl::Status status = stack->AllocateWorkspace();
  if (!status.ok()) return status;
  return stack;
}

std::unique_ptr<Block> DecoderStack::MakeAttention(int layer,
                                                   const std::string& prefix,
                                                   WeightLoader& loader) const {
  if (config_.kv_lora_rank > 0) {
    return std::make_unique<MlaAttention>(config_, layer, prefix, loader);
  }
  return std::make_unique<GqaAttention>(config_, layer, prefix, loader);
}

std::unique_ptr<Block> DecoderStack::MakeMlp(int layer,
                                             const std::string& prefix,
                                             WeightLoader& loader) const {
  if (config_.is_moe_layer(layer)) {
    return std::make_unique<MoeMlp>(config_, prefix, loader);
  }
  return std::make_unique<DenseMlp>(config_, prefix, loader);
}

void DecoderStack::LoadLayers(WeightLoader& loader,
                              const LoadProgress& progress) {
  const auto count = static_cast<int>(config_.num_hidden_layers);
  layers_.resize(count);
  for (int i = 0; i < count && loader.status().ok(); ++i) {
    if (progress) progress(static_cast<double>(i) / count, "packing weights");
    const std::string prefix = absl::StrCat("model.layers.", i, ".");
    Layer& layer = layers_[i];
    layer.input_norm = loader.Floats(prefix + "input_layernorm.weight");
    layer.attention = MakeAttention(i, prefix + "self_attn.", loader);
    layer.post_attention_norm =
        loader.Floats(prefix + "post_attention_layernorm.weight");
    layer.mlp = MakeMlp(i, prefix + "mlp.", loader);
  }
  if (progress) progress(1, "packing weights");
}

absl::Status DecoderStack::AllocateWorkspace() {
  const int64_t tokens = options_.max_tokens_per_step;
  const int64_t half = rope_.rotary_dim() / 2;
  int64_t scratch = 0;
  for (const Layer& layer : layers_) {
    scratch = std::max({scratch, layer.attention->ScratchFloats(tokens),
                        layer.mlp->ScratchFloats(tokens)});
  }
  const int64_t floats =
      tokens * (2 * config_.hidden_size + 2 * half) + scratch;
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> buffer =
      kernels_.Allocate(floats * static_cast<int64_t>(sizeof(float)));
  if (!buffer.ok()) return buffer.status();
  workspace_ = *std::move(buffer);
  hidden_ = static_cast<float*>(workspace_->data());
  normed_ = hidden_ + tokens * config_.hidden_size;
  cos_ = normed_ + tokens * config_.hidden_size;
  sin_ = cos_ + tokens * half;
  scratch_ = sin_ + tokens * half;
  return absl::OkStatus();
}

void DecoderStack::Norm(const float* in, const std::vector<float>& weight,
                        int64_t rows, float* out) {
  const int64_t width = config_.hidden_size;
  kernels_.RmsNorm({in, weight.data(), out, rows, width, width, width,
                    config_.rms_norm_eps});
}

absl::Status DecoderStack::Forward(const StepBatch& batch, PagedCache& cache) {
  const int64_t num_tokens = batch.num_tokens();
  SHOAL_CHECK(num_tokens > 0 && num_tokens <= options_.max_tokens_per_step);
  kernels_.Embedding(
      {embed_tokens_, batch.token_ids.data(), num_tokens, hidden_});
  rope_.Fill(batch.positions, cos_, sin_);
  const StepContext step = {batch, cache, kernels_, cos_, sin_, scratch_};
  for (Layer& layer : layers_) {
    Norm(hidden_, layer.input_norm, num_tokens, normed_);
    absl::Status status = layer.attention->Forward(step, normed_, hidden_);
    if (!status.ok()) return status;
    Norm(hidden_, layer.post_attention_norm, num_tokens, normed_);
    status = layer.mlp->Forward(step, normed_, hidden_);
    if (!status.ok()) return status;
  }
  num_logits_rows_ = static_cast<int32_t>(batch.logits_rows.size());
  for (int32_t i = 0; i < num_logits_rows_; ++i) {
    Norm(hidden_ + batch.logits_rows[i] * config_.hidden_size, final_norm_, 1,
         normed_ + i * config_.hidden_size);
  }
  return kernels_.Synchronize();
}

absl::Status DecoderStack::Logits(int32_t first, int32_t count, float* out) {
  SHOAL_CHECK(first >= 0 && count >= 0 && first + count <= num_logits_rows_);
  const LinearPart part[] = {{lm_head_.get(), nullptr, out}};
  kernels_.Linear({normed_ + first * config_.hidden_size, count,
                   config_.hidden_size, part});
  return kernels_.Synchronize();
}

}  // namespace shoal
