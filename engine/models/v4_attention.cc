#include "engine/models/v4_attention.h"

#include <algorithm>
#include <cmath>

#include "engine/models/cache_layouts.h"

namespace shoal {
namespace {

// A layer's place among those of its own ratio.
int PlaceOf(const ModelConfig& config, int layer) {
  const auto first = config.compress_ratios.begin();
  return static_cast<int>(
      std::count(first, first + layer, config.compress_ratios[layer]));
}

}  // namespace

V4Attention::V4Attention(const ModelConfig& config, int layer,
                         const std::string& prefix, WeightLoader& loader)
    : config_(config),
      layer_(layer),
      ratio_(config.compress_ratios[layer]),
      q_a_proj_(loader.Matrix(prefix + "q_a_proj.weight")),
      q_b_proj_(loader.Matrix(prefix + "q_b_proj.weight")),
      kv_proj_(loader.Matrix(prefix + "kv_proj.weight")),
      o_b_proj_(loader.Matrix(prefix + "o_b_proj.weight")),
      q_norm_(loader.Floats(prefix + "q_a_layernorm.weight")),
      kv_norm_(loader.Floats(prefix + "kv_a_layernorm.weight")),
      sinks_(loader.Floats(prefix + "sinks.weight")) {
  for (int64_t g = 0; g < config.o_groups; ++g) {
    o_a_proj_.push_back(loader.Rows(prefix + "o_a_proj.weight",
                                    g * config.o_lora_rank,
                                    config.o_lora_rank));
  }
  if (ratio_ == 0) return;
  const int place = PlaceOf(config, layer);
  const bool overlap = ratio_ == kOverlapRatio;
  compressor_ = std::make_unique<Compressor>(
      config, ratio_, config.head_dim,
      overlap ? CompressorPlace{kV4Csa, kV4CsaState, place}
              : CompressorPlace{kV4Hca, kV4HcaState, place},
      prefix + "compressor.", loader);
  if (!overlap) return;
  const std::string indexer = prefix + "indexer.";
  index_q_proj_ = loader.Matrix(indexer + "wq_b.weight");
  index_weights_proj_ = loader.ExactMatrix(indexer + "weights_proj.weight");
  index_compressor_ = std::make_unique<Compressor>(
      config, ratio_, config.index_head_dim,
      CompressorPlace{kV4CsaIndex, kV4IndexState, place},
      indexer + "compressor.", loader);
}

int64_t V4Attention::ScratchFloats(int64_t num_tokens) const {
  const int64_t width = config_.head_dim;
  const int64_t q_width = config_.num_attention_heads * width;
  int64_t last = num_tokens * config_.o_groups * config_.o_lora_rank;
  if (compressor_ != nullptr) {
    last = std::max(last, compressor_->ScratchFloats(num_tokens));
  }
  if (index_compressor_ != nullptr) {
    const int64_t index = config_.index_n_heads * (config_.index_head_dim + 1);
    // Chosen slots are as large as floats.
    last = std::max({last, index_compressor_->ScratchFloats(num_tokens),
                     num_tokens * (index + config_.index_topk + 1)});
  }
  return num_tokens * (config_.q_lora_rank + 2 * q_width + 2 * width) + last;
}

void V4Attention::Rotate(const StepContext& step, float* rows, int64_t heads,
                         int64_t width, bool inverse) const {
  const RopeAngles& angles =
      ratio_ == 0 ? step.inputs.rope : step.v4->compress_rope;
  RopeParams rope;
  rope.x = rows;
  rope.cos = angles.cos;
  rope.sin = angles.sin;
  rope.num_tokens = step.batch.num_tokens();
  rope.num_heads = static_cast<int32_t>(heads);
  rope.head_dim = static_cast<int32_t>(width);
  rope.rotary_dim = static_cast<int32_t>(config_.qk_rope_head_dim);
  rope.offset = rope.head_dim - rope.rotary_dim;
  rope.token_stride = heads * width;
  rope.layout = config_.rope_layout;
  rope.inverse = inverse;
  step.kernels.Rope(rope);
}

// The entries that the indexer chooses, in `scratch`.
SlotLists V4Attention::ChooseEntries(const StepContext& step, const float* x,
                                     const float* q_latent,
                                     float* scratch) const {
  const int64_t num_tokens = step.batch.num_tokens();
  const int64_t heads = config_.index_n_heads;
  const int64_t width = config_.index_head_dim;
  index_compressor_->Update(step, x, scratch);
  const auto top_k = static_cast<int32_t>(config_.index_topk);
  auto* slots = reinterpret_cast<int32_t*>(scratch);
  int32_t* counts = slots + num_tokens * top_k;
  auto* q = reinterpret_cast<float*>(counts + num_tokens);
  float* weights = q + num_tokens * heads * width;
  const LinearPart query[] = {{index_q_proj_.get(), nullptr, q}};
  step.kernels.Linear({q_latent, num_tokens, config_.q_lora_rank, query});
  Rotate(step, q, heads, width, /*inverse=*/false);
  // The reference's positive factors change no choice.
  const LinearPart weight[] = {{index_weights_proj_.get(), nullptr, weights}};
  step.kernels.Linear({x, num_tokens, config_.hidden_size, weight});

  KeySelectParams select;
  select.q = q;
  select.weights = weights;
  select.keys = index_compressor_->entries(step);
  select.cu_seqlens_q = step.inputs.cu_seqlens_q;
  select.block_tables = step.inputs.block_tables;
  select.num_visible = step.v4->of_ratio(ratio_).num_visible;
  select.num_seqs = step.batch.num_seqs();
  select.max_blocks = step.batch.max_blocks;
  select.keys_per_block = step.cache.block_size() / ratio_;
  select.num_heads = static_cast<int32_t>(heads);
  select.head_dim = static_cast<int32_t>(width);
  select.top_k = top_k;
  select.slots = slots;
  select.num_selected = counts;
  step.kernels.KeySelect(select);
  return {slots, counts, top_k};
}

void V4Attention::Attend(const StepContext& step, const float* q,
                         const void* new_rows, const SlotLists& entries,
                         float* out) const {
  const int64_t num_tokens = step.batch.num_tokens();
  const int64_t width = config_.head_dim;
  const auto flat = [width](const ConstTensorView& view) {
    return ConstTensorView(view.data, view.dtype,
                           {view.dim(0) * view.dim(1), width});
  };
  const TensorView ring = step.cache.tensor(kV4Window, layer_);
  const auto source = [](const ConstTensorView& rows, const SlotLists& lists) {
    return KeySource{rows, lists.slots, lists.counts, lists.max_keys};
  };
  KeySource sources[3] = {
      source(flat(ring), step.v4->ring),
      source(ConstTensorView(new_rows, ring.dtype, {num_tokens, width}),
             step.v4->fresh)};
  size_t num_sources = 2;
  if (compressor_ != nullptr) {
    sources[num_sources++] = source(flat(compressor_->entries(step)), entries);
  }
  SparseAttentionParams attention;
  attention.q = q;
  attention.sources = {sources, num_sources};
  attention.sinks = sinks_.data();
  attention.out = out;
  attention.num_tokens = num_tokens;
  attention.num_heads = static_cast<int32_t>(config_.num_attention_heads);
  attention.head_dim = static_cast<int32_t>(width);
  attention.v_dim = attention.head_dim;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(width));
  step.kernels.SparseAttention(attention);
}

// Each group of heads through its own part of wo_a, then all through wo_b.
// `scratch`: as large as `attended`, then [num_tokens, groups · o_lora_rank].
void V4Attention::Project(const StepContext& step, const float* attended,
                          float* scratch, float* residual) const {
  const int64_t num_tokens = step.batch.num_tokens();
  const int64_t groups = config_.o_groups;
  const int64_t width = config_.num_attention_heads * config_.head_dim / groups;
  const int64_t rank = config_.o_lora_rank;
  float* grouped = scratch;  // [groups, num_tokens, width]
  float* low = grouped + num_tokens * groups * width;
  step.kernels.CopyRows(
      {ConstTensorView(attended, DType::kF32, {num_tokens * groups, width}),
       TensorView(grouped, DType::kF32, {num_tokens * groups, width}),
       step.inputs.rows, step.v4->group_rows, num_tokens * groups});
  for (int64_t g = 0; g < groups; ++g) {
    const LinearPart part[] = {{&o_a_proj_[g]->matrix(), nullptr,
                                low + g * rank, /*accumulate=*/false,
                                groups * rank}};
    step.kernels.Linear(
        {grouped + g * num_tokens * width, num_tokens, width, part});
  }
  const LinearPart out[] = {
      {o_b_proj_.get(), nullptr, residual, /*accumulate=*/true}};
  step.kernels.Linear({low, num_tokens, groups * rank, out});
}

// The last rows of each sequence's step, which later steps still see.
void V4Attention::WriteRing(const StepContext& step, const float* kv) const {
  const int64_t width = config_.head_dim;
  const TensorView ring = step.cache.tensor(kV4Window, layer_);
  step.kernels.CacheWrite(
      {kv, step.v4->ring_slots, step.batch.num_tokens(), width, width,
       TensorView(ring.data, ring.dtype, {ring.dim(0) * ring.dim(1), width})});
}

absl::Status V4Attention::Forward(const StepContext& step, const float* x,
                                  float* residual) {
  const int64_t num_tokens = step.batch.num_tokens();
  const int64_t heads = config_.num_attention_heads;
  const int64_t width = config_.head_dim;
  const int64_t q_width = heads * width;
  const int64_t rank = config_.q_lora_rank;
  KernelTable& kernels = step.kernels;
  float* q_latent = step.scratch;
  float* kv = q_latent + num_tokens * rank;
  float* new_rows = kv + num_tokens * width;  // kv as the cache rounds it
  float* attended = new_rows + num_tokens * width;
  float* q = attended + num_tokens * q_width;
  float* rest = q + num_tokens * q_width;

  const LinearPart inputs[] = {{q_a_proj_.get(), nullptr, q_latent},
                               {kv_proj_.get(), nullptr, kv}};
  kernels.Linear({x, num_tokens, config_.hidden_size, inputs});
  kernels.RmsNorm({q_latent, q_norm_.data(), q_latent, num_tokens, rank, rank,
                   rank, config_.rms_norm_eps});
  kernels.RmsNorm({kv, kv_norm_.data(), kv, num_tokens, width, width, width,
                   config_.rms_norm_eps});
  const LinearPart up[] = {{q_b_proj_.get(), nullptr, q}};
  kernels.Linear({q_latent, num_tokens, rank, up});
  kernels.RmsNorm({q, nullptr, q, num_tokens * heads, width, width, width,
                   config_.rms_norm_eps});
  Rotate(step, q, heads, width, /*inverse=*/false);
  Rotate(step, kv, 1, width, /*inverse=*/false);

  const DType dtype = step.cache.tensor(kV4Window, layer_).dtype;
  kernels.CacheWrite({kv, step.v4->fresh_slots, num_tokens, width, width,
                      TensorView(new_rows, dtype, {num_tokens, width})});
  SlotLists entries = step.v4->entries;
  if (compressor_ != nullptr) compressor_->Update(step, x, rest);
  if (index_compressor_ != nullptr) {
    entries = ChooseEntries(step, x, q_latent, rest);
  }
  Attend(step, q, new_rows, entries, attended);
  WriteRing(step, kv);
  Rotate(step, attended, heads, width, /*inverse=*/true);
  Project(step, attended, q, residual);
  return absl::OkStatus();
}

}  // namespace shoal
