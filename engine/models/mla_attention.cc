#include "engine/models/mla_attention.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/models/rope.h"

namespace shoal {
namespace {

// Fixed in the reference, whatever rms_norm_eps says.
constexpr float kLatentNormEps = 1e-6f;

}  // namespace

float MlaSoftmaxScale(const ModelConfig& config) {
  const auto head_dim =
      static_cast<double>(config.qk_nope_head_dim + config.qk_rope_head_dim);
  double scale = 1 / std::sqrt(head_dim);
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.type != RopeScaling::Type::kNone && scaling.mscale_all_dim != 0) {
    const double g = YarnMscale(scaling.factor, scaling.mscale_all_dim);
    scale *= g * g;
  }
  return static_cast<float>(scale);
}

bool ExpandedMlaIsCheaper(const ModelConfig& config, int64_t q_len,
                          int64_t context_len) {
  const int64_t rank = config.kv_lora_rank;
  const int64_t rope = config.qk_rope_head_dim;
  const int64_t nope = config.qk_nope_head_dim;
  const int64_t value = config.v_head_dim;
  // Of one head. A token sees half of its own chunk on average.
  const int64_t pairs = q_len * (context_len - q_len / 2);
  const int64_t absorbed =
      pairs * (2 * rank + rope) + q_len * rank * (nope + value);
  // Laying the head's weights out takes about as long as expanding one row.
  const int64_t expanded =
      pairs * (nope + rope + value) + (context_len + 1) * rank * (nope + value);
  return expanded < absorbed;
}

MlaAttention::MlaAttention(const ModelConfig& config, MlaForm form, int layer,
                           const std::string& prefix, WeightLoader& loader)
    : config_(config),
      form_(form),
      layer_(layer),
      scale_(MlaSoftmaxScale(config)) {
  if (config.q_lora_rank > 0) {
    q_a_proj_ = loader.Matrix(prefix + "q_a_proj.weight");
    q_a_norm_ = loader.Floats(prefix + "q_a_layernorm.weight");
    q_b_proj_ = loader.Matrix(prefix + "q_b_proj.weight");
  } else {
    q_proj_ = loader.Matrix(prefix + "q_proj.weight");
  }
  kv_a_proj_ = loader.Matrix(prefix + "kv_a_proj_with_mqa.weight");
  kv_a_norm_ = loader.Floats(prefix + "kv_a_layernorm.weight");
  o_proj_ = loader.Matrix(prefix + "o_proj.weight");
  LoadHeads(prefix, loader);
  if (config.index_topk > 0) {
    indexer_ = std::make_unique<Indexer>(config, 1, layer, prefix + "indexer.",
                                         loader);
  }
}

void MlaAttention::LoadHeads(const std::string& prefix, WeightLoader& loader) {
  const int64_t rank = config_.kv_lora_rank;
  const int64_t nope = config_.qk_nope_head_dim;
  const int64_t value = config_.v_head_dim;
  const bool joint = loader.Contains(prefix + "kv_b_proj.weight");
  const std::vector<float> k_rows = loader.HostFloats(
      prefix + (joint ? "kv_b_proj.weight" : "k_b_proj.weight"));
  const std::vector<float> v_rows =
      joint ? std::vector<float>()
            : loader.HostFloats(prefix + "v_b_proj.weight");
  if (!loader.status().ok()) return;
  std::vector<float> transposed(rank * nope);
  for (int64_t h = 0; h < config_.num_attention_heads; ++h) {
    const float* k = k_rows.data() + h * rank * nope;  // stored transposed
    const float* v = v_rows.data() + h * value * rank;
    if (joint) {
      const float* head = k_rows.data() + h * (nope + value) * rank;
      for (int64_t i = 0; i < nope; ++i) {
        for (int64_t r = 0; r < rank; ++r) {
          transposed[r * nope + i] = head[i * rank + r];
        }
      }
      k = transposed.data();
      v = head + nope * rank;
    }
    k_heads_.push_back(loader.PackHead(k, rank, nope));
    v_heads_.push_back(loader.PackHead(v, value, rank));
    if (!loader.status().ok()) return;
    k_weights_.push_back(&k_heads_.back()->matrix());
    v_weights_.push_back(&v_heads_.back()->matrix());
  }
}

int64_t MlaAttention::ScratchFloats(int64_t num_tokens) const {
  const int64_t heads = config_.num_attention_heads;
  const int64_t row = config_.kv_lora_rank + config_.qk_rope_head_dim;
  const int64_t floats =
      num_tokens *
      (config_.q_lora_rank +
       heads * (config_.qk_nope_head_dim + config_.qk_rope_head_dim) + row +
       heads * (row + config_.kv_lora_rank + config_.v_head_dim));
  if (indexer_ == nullptr) return floats;
  return floats + num_tokens * (config_.index_topk + 1) +
         indexer_->ScratchFloats(num_tokens);
}

bool MlaAttention::Expands(const StepBatch& batch, int32_t seq) const {
  if (form_ != MlaForm::kAuto) return form_ == MlaForm::kExpanded;
  return ExpandedMlaIsCheaper(
      config_, batch.cu_seqlens_q[seq + 1] - batch.cu_seqlens_q[seq],
      batch.context_lens[seq]);
}

// q into the latent's space, in front of what LatentWrite() rotated.
void MlaAttention::Absorb(const StepContext& step, const Rows& rows,
                          const Run& run) {
  const int64_t heads = config_.num_attention_heads;
  const int64_t q_dim = config_.qk_nope_head_dim + config_.qk_rope_head_dim;
  const int64_t row = config_.kv_lora_rank + config_.qk_rope_head_dim;
  const int64_t first = step.batch.cu_seqlens_q[run.first];
  HeadLinearParams absorb;
  absorb.in = rows.q + first * heads * q_dim;
  absorb.in_token_stride = heads * q_dim;
  absorb.in_head_stride = q_dim;
  absorb.weights = k_weights_;
  absorb.num_tokens = step.batch.cu_seqlens_q[run.last] - first;
  absorb.out = rows.absorbed + first * heads * row;
  absorb.out_token_stride = heads * row;
  absorb.out_head_stride = row;
  step.kernels.HeadLinear(absorb);
}

// What was attended in the latent's space out of it.
void MlaAttention::ExpandValues(const StepContext& step, const Rows& rows,
                                const Run& run) {
  const int64_t heads = config_.num_attention_heads;
  const int64_t rank = config_.kv_lora_rank;
  const int64_t v_width = heads * config_.v_head_dim;
  const int64_t first = step.batch.cu_seqlens_q[run.first];
  HeadLinearParams expand;
  expand.in = rows.attended + first * heads * rank;
  expand.in_token_stride = heads * rank;
  expand.in_head_stride = rank;
  expand.weights = v_weights_;
  expand.num_tokens = step.batch.cu_seqlens_q[run.last] - first;
  expand.out = rows.values + first * v_width;
  expand.out_token_stride = v_width;
  expand.out_head_stride = config_.v_head_dim;
  step.kernels.HeadLinear(expand);
}

void MlaAttention::AttendAbsorbed(const StepContext& step, const Rows& rows,
                                  const Run& run) {
  Absorb(step, rows, run);
  const StepBatch& batch = step.batch;
  const TensorView cache = step.cache.tensor(0, layer_);
  PagedAttentionParams attention;
  attention.q = rows.absorbed;
  attention.cu_seqlens_q = step.inputs.cu_seqlens_q + run.first;
  attention.context_lens = step.inputs.context_lens + run.first;
  attention.block_tables =
      step.inputs.block_tables + int64_t{run.first} * batch.max_blocks;
  attention.k_cache = ConstTensorView(
      cache.data, cache.dtype, {cache.dim(0), cache.dim(1), 1, cache.dim(2)});
  attention.v_cache = attention.k_cache;
  attention.out = rows.attended;
  attention.num_seqs = run.last - run.first;
  attention.max_blocks = batch.max_blocks;
  attention.block_size = step.cache.block_size();
  attention.num_heads = static_cast<int32_t>(config_.num_attention_heads);
  attention.num_kv_heads = 1;
  attention.head_dim = static_cast<int32_t>(cache.dim(2));
  attention.v_dim = static_cast<int32_t>(config_.kv_lora_rank);
  attention.scale = scale_;
  step.kernels.PagedAttention(attention);
  ExpandValues(step, rows, run);
}

void MlaAttention::AttendExpanded(const StepContext& step, const Rows& rows,
                                  const Run& run) {
  const StepBatch& batch = step.batch;
  LatentAttentionParams attention;
  attention.q = rows.q;
  attention.k_weights = k_weights_;
  attention.v_weights = v_weights_;
  attention.cu_seqlens_q = step.inputs.cu_seqlens_q + run.first;
  attention.context_lens = step.inputs.context_lens + run.first;
  attention.block_tables =
      step.inputs.block_tables + int64_t{run.first} * batch.max_blocks;
  attention.cache = step.cache.tensor(0, layer_);
  attention.out = rows.values;
  attention.first_token = batch.cu_seqlens_q[run.first];
  attention.num_tokens = batch.cu_seqlens_q[run.last] - attention.first_token;
  attention.num_seqs = run.last - run.first;
  attention.max_blocks = batch.max_blocks;
  attention.rope_dim = static_cast<int32_t>(config_.qk_rope_head_dim);
  attention.scale = scale_;
  step.kernels.LatentAttention(attention);
}

void MlaAttention::AttendAll(const StepContext& step, const Rows& rows) {
  const int32_t num_seqs = step.batch.num_seqs();
  for (Run run; run.first < num_seqs; run.first = run.last) {
    const bool expands = Expands(step.batch, run.first);
    run.last = run.first + 1;
    while (run.last < num_seqs && Expands(step.batch, run.last) == expands) {
      ++run.last;
    }
    if (expands) {
      AttendExpanded(step, rows, run);
    } else {
      AttendAbsorbed(step, rows, run);
    }
  }
}

void MlaAttention::AttendSelected(const StepContext& step, const Rows& rows,
                                  const int32_t* slots,
                                  const int32_t* num_selected) {
  const Run all = {0, step.batch.num_seqs()};
  Absorb(step, rows, all);
  const TensorView cache = step.cache.tensor(0, layer_);
  const KeySource chosen[] = {
      {ConstTensorView(cache.data, cache.dtype,
                       {cache.dim(0) * cache.dim(1), cache.dim(2)}),
       slots, num_selected, static_cast<int32_t>(config_.index_topk)}};
  SparseAttentionParams attention;
  attention.q = rows.absorbed;
  attention.sources = chosen;
  attention.out = rows.attended;
  attention.num_tokens = step.batch.num_tokens();
  attention.num_heads = static_cast<int32_t>(config_.num_attention_heads);
  attention.head_dim = static_cast<int32_t>(cache.dim(2));
  attention.v_dim = static_cast<int32_t>(config_.kv_lora_rank);
  attention.scale = scale_;
  step.kernels.SparseAttention(attention);
  ExpandValues(step, rows, all);
}

absl::Status MlaAttention::Forward(const StepContext& step, const float* x,
                                   float* residual) {
  const int64_t num_tokens = step.batch.num_tokens();
  const int64_t heads = config_.num_attention_heads;
  const int64_t rank = config_.kv_lora_rank;
  const int64_t rope_dim = config_.qk_rope_head_dim;
  const int64_t q_dim = config_.qk_nope_head_dim + rope_dim;
  const int64_t row = rank + rope_dim;
  const int64_t v_width = heads * config_.v_head_dim;
  KernelTable& kernels = step.kernels;
  float* q_latent = step.scratch;
  float* q = q_latent + num_tokens * config_.q_lora_rank;
  float* latent = q + num_tokens * heads * q_dim;
  float* absorbed = latent + num_tokens * row;
  float* attended = absorbed + num_tokens * heads * row;
  float* values = attended + num_tokens * heads * rank;

  const LinearPart inputs[] = {
      {q_proj_ != nullptr ? q_proj_.get() : q_a_proj_.get(), nullptr,
       q_proj_ != nullptr ? q : q_latent},
      {kv_a_proj_.get(), nullptr, latent}};
  kernels.Linear({x, num_tokens, config_.hidden_size, inputs});
  if (q_proj_ == nullptr) {
    const int64_t width = config_.q_lora_rank;
    kernels.RmsNorm({q_latent, q_a_norm_.data(), q_latent, num_tokens, width,
                     width, width, kLatentNormEps});
    const LinearPart up[] = {{q_b_proj_.get(), nullptr, q}};
    kernels.Linear({q_latent, num_tokens, width, up});
  }

  const TensorView cache = step.cache.tensor(0, layer_);
  LatentWriteParams write;
  write.q = q;
  write.q_rope = absorbed + rank;
  write.q_rope_stride = row;
  write.latent = latent;
  write.norm = kv_a_norm_.data();
  write.cos = step.inputs.rope.cos;
  write.sin = step.inputs.rope.sin;
  write.slot_mapping = step.inputs.slot_mapping;
  write.cache = TensorView(
      cache.data, cache.dtype,
      {step.cache.num_blocks() * int64_t{step.cache.block_size()}, row});
  write.num_tokens = num_tokens;
  write.num_heads = static_cast<int32_t>(heads);
  write.q_dim = static_cast<int32_t>(q_dim);
  write.rope_dim = static_cast<int32_t>(rope_dim);
  write.layout = config_.rope_layout;
  write.eps = kLatentNormEps;
  kernels.LatentWrite(write);

  const Rows rows = {q, absorbed, attended, values};
  const auto longest = std::max_element(step.batch.context_lens.begin(),
                                        step.batch.context_lens.end());
  float* rest = values + num_tokens * v_width;
  if (indexer_ == nullptr) {
    AttendAll(step, rows);
  } else if (*longest <= config_.index_topk) {
    indexer_->CacheKeys(step, x, rest);
    AttendAll(step, rows);
  } else {
    auto* slots = reinterpret_cast<int32_t*>(rest);
    int32_t* num_selected = slots + num_tokens * config_.index_topk;
    indexer_->Select(step, x, q_latent,
                     reinterpret_cast<float*>(num_selected + num_tokens), slots,
                     num_selected);
    AttendSelected(step, rows, slots, num_selected);
  }

  const LinearPart out[] = {
      {o_proj_.get(), nullptr, residual, /*accumulate=*/true}};
  kernels.Linear({values, num_tokens, v_width, out});
  return absl::OkStatus();
}

}  // namespace shoal
