#include "engine/models/mtp_module.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/models/cache_layouts.h"
#include "engine/models/mla_attention.h"
#include "engine/models/moe_mlp.h"

namespace shoal {
namespace {

CacheLayout OneLayer(CacheLayout layout) {
  for (CacheGroup& group : layout.groups) group.num_layers = 1;
  return layout;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MtpModule>> MtpModule::Create(
    const Checkpoint& checkpoint, const DecoderOptions& options,
    KernelTable& kernels) {
  WeightLoader loader(checkpoint, kernels, options.precision);
  std::unique_ptr<MtpModule> module(
      new MtpModule(checkpoint, options, kernels, loader));
  if (!loader.status().ok()) return loader.status();
  absl::Status status = module->AllocateWorkspace(options.max_tokens_per_step);
  if (!status.ok()) return status;
  return module;
}

MtpModule::MtpModule(const Checkpoint& checkpoint,
                     const DecoderOptions& options, KernelTable& kernels,
                     WeightLoader& loader)
    : config_(checkpoint.config()),
      kernels_(kernels),
      cache_layout_(OneLayer(MakeCacheLayout(config_, options.kv_cache_dtype))),
      rope_(config_, static_cast<int32_t>(config_.qk_rope_head_dim)),
      staging_(kernels) {
  const auto layer = static_cast<int>(config_.num_hidden_layers);
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  embed_norm_ = loader.Floats(prefix + "enorm.weight");
  hidden_norm_ = loader.Floats(prefix + "hnorm.weight");
  eh_proj_ = loader.Matrix(prefix + "eh_proj.weight");
  input_norm_ = loader.Floats(prefix + "input_layernorm.weight");
  mlp_norm_ = loader.Floats(prefix + "post_attention_layernorm.weight");
  final_norm_ = loader.Floats(prefix + "shared_head.norm.weight");
  if (!loader.status().ok()) return;
  attention_ = std::make_unique<MlaAttention>(config_, options.mla_form, 0,
                                              prefix + "self_attn.", loader);
  mlp_ = std::make_unique<MoeMlp>(config_, layer, prefix + "mlp.", kernels,
                                  nullptr, loader);
  // The module's own copies of these two equal the main model's.
  embed_tokens_ = loader.Stored("model.embed_tokens.weight");
  logits_head_ = std::make_unique<LogitsHead>(
      kernels, options.max_tokens_per_step, loader);
}

absl::Status MtpModule::AllocateWorkspace(int64_t tokens) {
  const int64_t width = config_.hidden_size;
  const int64_t scratch =
      std::max(attention_->ScratchFloats(tokens), mlp_->ScratchFloats(tokens));
  const int64_t floats = tokens * 4 * width + scratch;
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> buffer =
      kernels_.Allocate(floats * static_cast<int64_t>(sizeof(float)));
  if (!buffer.ok()) return buffer.status();
  workspace_ = *std::move(buffer);
  joined_ = static_cast<float*>(workspace_->data());
  residual_ = joined_ + tokens * 2 * width;
  normed_ = residual_ + tokens * width;
  scratch_ = normed_ + tokens * width;
  return absl::OkStatus();
}

void MtpModule::Norm(const float* in, const DeviceArray<float>& weight,
                     int64_t rows, int64_t in_stride, float* out,
                     int64_t out_stride) {
  kernels_.RmsNorm({in, weight.data(), out, rows, config_.hidden_size,
                    in_stride, out_stride, config_.rms_norm_eps});
}

absl::Status MtpModule::Forward(const StepBatch& batch, const float* hidden,
                                PagedCache& cache) {
  const int64_t num_tokens = batch.num_tokens();
  const int64_t width = config_.hidden_size;
  staging_.Begin();
  const StepInputs inputs = StageBatch(batch, rope_, num_tokens, staging_);
  absl::Status status = staging_.Upload();
  if (!status.ok()) return status;
  kernels_.Embedding(
      {embed_tokens_.view(), inputs.token_ids, num_tokens, normed_});
  Norm(normed_, embed_norm_, num_tokens, width, joined_, 2 * width);
  Norm(hidden, hidden_norm_, num_tokens, width, joined_ + width, 2 * width);
  const LinearPart join[] = {{eh_proj_.get(), nullptr, residual_}};
  kernels_.Linear({joined_, num_tokens, 2 * width, join});

  const StepContext step = {batch,    inputs,  cache,  kernels_,
                            scratch_, nullptr, nullptr};
  Norm(residual_, input_norm_, num_tokens, width, normed_, width);
  status = attention_->Forward(step, normed_, residual_);
  if (!status.ok()) return status;
  Norm(residual_, mlp_norm_, num_tokens, width, normed_, width);
  status = mlp_->Forward(step, normed_, residual_);
  if (!status.ok()) return status;
  const auto rows = static_cast<int64_t>(batch.logits_rows.size());
  kernels_.CopyRows(
      {ConstTensorView(residual_, DType::kF32, {num_tokens, width}),
       TensorView(normed_, DType::kF32, {num_tokens, width}),
       inputs.logits_rows, inputs.rows, rows});
  Norm(normed_, final_norm_, rows, width, normed_, width);
  return kernels_.Synchronize();
}

absl::Status MtpModule::Logits(int32_t first, int32_t count, float* out) {
  return logits_head_->Run(normed_ + first * config_.hidden_size, count, out);
}

}  // namespace shoal
