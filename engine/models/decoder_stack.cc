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
#include "engine/models/v4_attention.h"
#include "kernels/check.h"

namespace shoal {

namespace {

// The options that make another model of the same weights.
ModelConfig WithOptions(ModelConfig config, const DecoderOptions& options) {
  if (config.index_topk > 0 && options.index_topk > 0) {
    config.index_topk =
        std::min<int64_t>(config.index_topk, options.index_topk);
  }
  return config;
}

int32_t RotaryDim(const ModelConfig& config) {
  return static_cast<int32_t>(
      config.qk_rope_head_dim > 0 ? config.qk_rope_head_dim : config.head_dim);
}

// DeepSeek-V4 scales rotation in its compressed layers only, which have a theta
// of their own.
ModelConfig PlainRope(ModelConfig config) {
  if (config.hc_mult > 0) config.rope_scaling = RopeScaling();
  return config;
}
ModelConfig CompressRope(ModelConfig config) {
  if (config.hc_mult > 0) config.rope_theta = config.compress_rope_theta;
  return config;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Decoder>> MakeDecoder(
    const Checkpoint& checkpoint, const DecoderOptions& options,
    KernelTable& kernels, const LoadProgress& progress) {
  return DecoderStack::Create(checkpoint, options, kernels, progress);
}

DecoderStack::DecoderStack(const ModelConfig& config,
                           const DecoderOptions& options, KernelTable& kernels)
    : config_(WithOptions(config, options)),
      options_(options),
      kernels_(kernels),
      cache_layout_(MakeCacheLayout(config_, options.kv_cache_dtype,
                                    kernels.has_cache_tiles())),
      rope_(PlainRope(config_), RotaryDim(config_)),
      compress_rope_(CompressRope(config_), RotaryDim(config_)),
      staging_(kernels) {
  SHOAL_CHECK(options.max_tokens_per_step > 0);
}

absl::StatusOr<std::unique_ptr<Decoder>> DecoderStack::Create(
    const Checkpoint& checkpoint, const DecoderOptions& options,
    KernelTable& kernels, const LoadProgress& progress) {
  std::unique_ptr<DecoderStack> stack(
      new DecoderStack(checkpoint.config(), options, kernels));
  WeightLoader loader(checkpoint, kernels, options.precision);
  stack->embed_tokens_ = loader.Stored("model.embed_tokens.weight");
  stack->final_norm_ = loader.Floats("model.norm.weight");
  stack->logits_head_ = std::make_unique<LogitsHead>(
      kernels, options.max_tokens_per_step, loader);
  if (stack->config_.hc_mult > 0) {
    stack->head_connection_ = std::make_unique<HyperConnection>(
        stack->config_, "model.hc_head", loader);
  }
  stack->expert_tiers_ = ExpertTiers::Create(
      checkpoint, stack->config_, options.experts, options.precision, kernels);
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
  if (config_.hc_mult > 0) {
    return std::make_unique<V4Attention>(config_, layer, prefix, loader);
  }
  if (config_.kv_lora_rank > 0) {
    return std::make_unique<MlaAttention>(config_, options_.mla_form, layer,
                                          prefix, loader);
  }
  return std::make_unique<GqaAttention>(config_, layer, prefix, loader);
}

std::unique_ptr<Block> DecoderStack::MakeMlp(int layer,
                                             const std::string& prefix,
                                             WeightLoader& loader) const {
  if (config_.is_moe_layer(layer)) {
    return std::make_unique<MoeMlp>(config_, layer, prefix, kernels_,
                                    expert_tiers_.get(), loader);
  }
  return std::make_unique<DenseMlp>(config_, prefix, loader);
}

void DecoderStack::LoadLayers(WeightLoader& loader,
                              const LoadProgress& progress) {
  const auto count = static_cast<int>(config_.num_hidden_layers);
  for (int i = 0; i < count && loader.status().ok(); ++i) {
    if (progress) progress(static_cast<double>(i) / count, "packing weights");
    loader.Prefetch(absl::StrCat("model.layers.", i + 1, "."));
    LoadLayer(i, loader);
  }
  if (progress) progress(1, "packing weights");
}

void DecoderStack::LoadLayer(int layer, WeightLoader& loader) {
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  const auto connection = [&](const char* name) {
    return config_.hc_mult > 0 ? std::make_unique<HyperConnection>(
                                     config_, prefix + name, loader)
                               : nullptr;
  };
  SubLayer& attention = sub_layers_.emplace_back();
  attention.norm = loader.Floats(prefix + "input_layernorm.weight");
  attention.block = MakeAttention(layer, prefix + "self_attn.", loader);
  attention.connection = connection("hc_attn");
  SubLayer& mlp = sub_layers_.emplace_back();
  mlp.norm = loader.Floats(prefix + "post_attention_layernorm.weight");
  mlp.block = MakeMlp(layer, prefix + "mlp.", loader);
  mlp.connection = connection("hc_ffn");
}

absl::Status DecoderStack::AllocateWorkspace() {
  const int64_t tokens = options_.max_tokens_per_step;
  const int64_t streams = std::max<int64_t>(1, config_.hc_mult);
  int64_t scratch = 0;
  for (const SubLayer& sub_layer : sub_layers_) {
    scratch = std::max(scratch, sub_layer.block->ScratchFloats(tokens));
    if (sub_layer.connection != nullptr) {
      scratch = std::max(scratch, sub_layer.connection->ScratchFloats(tokens));
    }
  }
  const int64_t width = config_.hidden_size;
  const int64_t kept = HyperConnection::KeptFloats(config_, tokens);
  const int64_t floats = tokens * (streams + 2) * width + kept + scratch;
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> buffer =
      kernels_.Allocate(floats * static_cast<int64_t>(sizeof(float)));
  if (!buffer.ok()) return buffer.status();
  workspace_ = *std::move(buffer);
  hidden_ = static_cast<float*>(workspace_->data());
  normed_ = hidden_ + tokens * streams * width;
  mixed_ = normed_ + tokens * width;
  kept_ = mixed_ + tokens * width;
  scratch_ = kept_ + kept;
  if (config_.n_routed_experts == 0) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<ExpertLoad>> load =
      ExpertLoad::Create(config_, tokens, kernels_);
  if (!load.ok()) return load.status();
  expert_load_ = *std::move(load);
  return expert_tiers_ != nullptr ? expert_tiers_->Prepare(tokens)
                                  : absl::OkStatus();
}

void DecoderStack::Norm(const float* in, const DeviceArray<float>& weight,
                        int64_t rows, float* out) {
  const int64_t width = config_.hidden_size;
  kernels_.RmsNorm({in, weight.data(), out, rows, width, width, width,
                    config_.rms_norm_eps});
}

absl::Status DecoderStack::RunSubLayer(const StepContext& step,
                                       SubLayer& sub_layer) {
  const int64_t num_tokens = step.batch.num_tokens();
  if (sub_layer.connection == nullptr) {
    Norm(hidden_, sub_layer.norm, num_tokens, normed_);
    return sub_layer.block->Forward(step, normed_, hidden_);
  }
  sub_layer.connection->Mix(kernels_, hidden_, num_tokens, scratch_, kept_,
                            mixed_);
  Norm(mixed_, sub_layer.norm, num_tokens, normed_);
  // Blocks add to what they are given.
  kernels_.Zero(mixed_, num_tokens * config_.hidden_size);
  absl::Status status = sub_layer.block->Forward(step, normed_, mixed_);
  if (status.ok()) {
    sub_layer.connection->Expand(kernels_, mixed_, kept_, num_tokens, hidden_);
  }
  return status;
}

// What ops read of the batch, into the table's memory.
absl::Status DecoderStack::Stage(const StepBatch& batch,
                                 const PagedCache& cache) {
  const int64_t rows_per_token =
      std::max<int64_t>({1, config_.hc_mult, config_.o_groups});
  staging_.Begin();
  inputs_ =
      StageBatch(batch, rope_, batch.num_tokens() * rows_per_token, staging_);
  if (config_.hc_mult > 0) {
    v4_inputs_ = StageV4(batch, config_, compress_rope_, cache, staging_);
  }
  return staging_.Upload();
}

// The embedding fills every stream of the residual.
void DecoderStack::Embed(int64_t num_tokens) {
  const int64_t streams = config_.hc_mult;
  kernels_.Embedding({embed_tokens_.view(), inputs_.token_ids, num_tokens,
                      streams > 0 ? mixed_ : hidden_});
  if (streams == 0) return;
  const int64_t width = config_.hidden_size;
  kernels_.CopyRows(
      {ConstTensorView(mixed_, DType::kF32, {num_tokens, width}),
       TensorView(hidden_, DType::kF32, {num_tokens * streams, width}),
       v4_inputs_.stream_tokens, inputs_.rows, num_tokens * streams});
}

absl::Status DecoderStack::RunLayers(const StepBatch& batch,
                                     PagedCache& cache) {
  const StepContext step = {batch,
                            inputs_,
                            cache,
                            kernels_,
                            scratch_,
                            config_.hc_mult > 0 ? &v4_inputs_ : nullptr,
                            expert_load_.get()};
  for (SubLayer& sub_layer : sub_layers_) {
    absl::Status status = RunSubLayer(step, sub_layer);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// A decode step's ops depend on how many sequences there are, not on which.
bool DecoderStack::IsReplayable(const StepBatch& batch) const {
  constexpr int32_t kMostTokens = 512;  // more are worth their launches
  const int32_t num_tokens = batch.num_tokens();
  return num_tokens == batch.num_seqs() && num_tokens <= kMostTokens &&
         config_.hc_mult == 0 && expert_tiers_ == nullptr;
}

// All that the params of a replayable step's ops follow from.
std::vector<int64_t> DecoderStack::ReplayKey(const StepBatch& batch,
                                             const PagedCache& cache) const {
  const auto address = [](const void* pointer) {
    return static_cast<int64_t>(reinterpret_cast<uintptr_t>(pointer));
  };
  const int32_t longest =
      *std::max_element(batch.context_lens.begin(), batch.context_lens.end());
  return {batch.num_tokens(),
          static_cast<int64_t>(batch.logits_rows.size()),
          batch.max_blocks,
          longest <= config_.index_topk ? 1 : 0,
          cache.num_blocks(),
          cache.block_size(),
          address(cache.tensor(0, 0).data),
          address(inputs_.token_ids),
          address(inputs_.block_tables),
          address(inputs_.rope.sin)};
}

void DecoderStack::KeepLogitsRows(const StepBatch& batch) {
  const int64_t num_tokens = batch.num_tokens();
  const float* last = hidden_;
  if (head_connection_ != nullptr) {
    head_connection_->Mix(kernels_, hidden_, num_tokens, scratch_, kept_,
                          mixed_);
    last = mixed_;
  }
  if (num_logits_rows_ == 0) return;
  const int64_t width = config_.hidden_size;
  kernels_.CopyRows({ConstTensorView(last, DType::kF32, {num_tokens, width}),
                     TensorView(normed_, DType::kF32, {num_tokens, width}),
                     inputs_.logits_rows, inputs_.rows, num_logits_rows_});
  Norm(normed_, final_norm_, num_logits_rows_, normed_);
}

absl::Status DecoderStack::Start(const StepBatch& batch, PagedCache& cache) {
  const int64_t num_tokens = batch.num_tokens();
  SHOAL_CHECK(num_tokens > 0 && num_tokens <= options_.max_tokens_per_step);
  SHOAL_CHECK(under_way_.size() < (can_run_ahead() ? 2 : 1));
  absl::Status status = Stage(batch, cache);
  if (!status.ok()) return status;
  num_logits_rows_ = static_cast<int32_t>(batch.logits_rows.size());
  logits_head_->PutDrawn(inputs_);
  const auto ops = [&] {
    Embed(num_tokens);
    absl::Status done = RunLayers(batch, cache);
    if (done.ok()) KeepLogitsRows(batch);
    return done;
  };
  status = IsReplayable(batch) ? kernels_.Replay(ReplayKey(batch, cache), ops)
                               : ops();
  if (!status.ok()) return status;
  StepResults& results = under_way_.emplace_back();
  results.num_tokens = num_tokens;
  if (expert_load_ != nullptr) {
    results.expert_choices = expert_load_->Fetch(num_tokens);
  }
  return absl::OkStatus();
}

absl::Status DecoderStack::Draw(int32_t count, const TokenDraw* draws) {
  SHOAL_CHECK(count > 0 && count <= num_logits_rows_);
  SHOAL_CHECK(!under_way_.empty() && under_way_.back().drawn == nullptr);
  under_way_.back().num_drawn = count;
  under_way_.back().drawn = logits_head_->Draw(normed_, count, draws);
  return absl::OkStatus();
}

absl::Status DecoderStack::Finish(std::vector<int32_t>* tokens) {
  SHOAL_CHECK(!under_way_.empty());
  const StepResults results = std::move(under_way_.front());
  under_way_.pop_front();
  tokens->resize(results.num_drawn);
  absl::Status status = results.expert_choices != nullptr
                            ? CountExperts(results)
                            : absl::OkStatus();
  if (results.drawn == nullptr) {
    return status.ok() ? kernels_.Synchronize() : status;
  }
  const absl::StatusOr<const void*> drawn = results.drawn->Wait();
  if (!drawn.ok()) return drawn.status();
  std::memcpy(tokens->data(), *drawn, tokens->size() * sizeof(int32_t));
  return status;
}

absl::Status DecoderStack::CountExperts(const StepResults& results) {
  const absl::StatusOr<const void*> choices = results.expert_choices->Wait();
  if (!choices.ok()) return choices.status();
  expert_load_->Count(results.num_tokens,
                      static_cast<const int32_t*>(*choices));
  return expert_tiers_ == nullptr ? absl::OkStatus()
                                  : expert_tiers_->EndStep(*expert_load_);
}

ExpertStats DecoderStack::expert_stats() const {
  ExpertStats stats;
  if (expert_load_ == nullptr) return stats;
  if (expert_tiers_ != nullptr) {
    stats = expert_tiers_->stats();
  } else {
    stats.on_device = static_cast<int64_t>(expert_load_->loads().size());
    for (const uint64_t load : expert_load_->loads()) {
      stats.device_choices += load;
    }
  }
  stats.imbalance = expert_load_->Imbalance();
  return stats;
}

absl::Status DecoderStack::Logits(int32_t first, int32_t count, float* out) {
  SHOAL_CHECK(under_way_.empty());
  SHOAL_CHECK(first >= 0 && count >= 0 && first + count <= num_logits_rows_);
  return logits_head_->Run(normed_ + first * config_.hidden_size, count, out);
}

}  // namespace shoal
