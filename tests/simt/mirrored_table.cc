#include "tests/simt/mirrored_table.h"

#include <algorithm>
#include <vector>

#include "tests/simt/mirror.h"

namespace shoal {
namespace {

// Elements of `rows` rows of `width`, `stride` apart.
int64_t Extent(int64_t rows, int64_t stride, int64_t width) {
  return rows == 0 ? 0 : (rows - 1) * stride + width;
}

}  // namespace

void MirroredTable::Linear(const LinearParams& params) {
  LinearParams p = params;
  std::vector<LinearPart> parts(p.parts.begin(), p.parts.end());
  Mirror mirror(*inner_);
  mirror.In(p.in, p.num_tokens * p.in_features);
  for (const LinearPart& part : parts) {
    const int64_t width = part.weight->out_features();
    const int64_t stride = part.out_stride > 0 ? part.out_stride : width;
    mirror.In(part.bias, width);
    mirror.Out(part.out, Extent(p.num_tokens, stride, width));
  }
  mirror.Send();
  p.in = mirror.At(p.in);
  for (LinearPart& part : parts) {
    part.bias = mirror.At(part.bias);
    part.out = mirror.At(part.out);
  }
  p.parts = parts;
  inner_->Linear(p);
  mirror.Fetch();
}

void MirroredTable::HeadLinear(const HeadLinearParams& params) {
  HeadLinearParams p = params;
  const auto heads = static_cast<int64_t>(p.weights.size());
  const PackedMatrix& weight = *p.weights.front();
  Mirror mirror(*inner_);
  mirror.In(p.in,
            Extent(p.num_tokens, p.in_token_stride,
                   Extent(heads, p.in_head_stride, weight.in_features())));
  mirror.Out(p.out,
             Extent(p.num_tokens, p.out_token_stride,
                    Extent(heads, p.out_head_stride, weight.out_features())));
  mirror.Send();
  p.in = mirror.At(p.in);
  p.out = mirror.At(p.out);
  inner_->HeadLinear(p);
  mirror.Fetch();
}

void MirroredTable::GatedLinear(const GatedLinearParams& params) {
  GatedLinearParams p = params;
  Mirror mirror(*inner_);
  mirror.In(p.in, p.num_tokens * p.in_features);
  for (const LinearPart* part : {&p.gate, &p.up}) {
    const int64_t width = part->weight->out_features();
    mirror.In(part->bias, width);
    mirror.Out(part->out, p.num_tokens * width);
  }
  mirror.Send();
  p.in = mirror.At(p.in);
  for (LinearPart* part : {&p.gate, &p.up}) {
    part->bias = mirror.At(part->bias);
    part->out = mirror.At(part->out);
  }
  inner_->GatedLinear(p);
  mirror.Fetch();
}

void MirroredTable::Zero(float* out, int64_t n) {
  Mirror mirror(*inner_);
  mirror.Out(out, n);
  mirror.Send();
  inner_->Zero(mirror.At(out), n);
  mirror.Fetch();
}

void MirroredTable::Add(const float* in, int64_t n, float* out) {
  Mirror mirror(*inner_);
  mirror.In(in, n);
  mirror.Out(out, n);
  mirror.Send();
  inner_->Add(mirror.At(in), n, mirror.At(out));
  mirror.Fetch();
}

void MirroredTable::Embedding(const EmbeddingParams& params) {
  EmbeddingParams p = params;
  Mirror mirror(*inner_);
  mirror.In(p.table.data);
  if (!p.table.scales.empty()) mirror.In(p.table.scales);
  mirror.In(p.token_ids, p.num_tokens);
  mirror.Out(p.out, p.num_tokens * p.table.in_features());
  mirror.Send();
  mirror.Move(p.table.data);
  if (!p.table.scales.empty()) mirror.Move(p.table.scales);
  p.token_ids = mirror.At(p.token_ids);
  p.out = mirror.At(p.out);
  inner_->Embedding(p);
  mirror.Fetch();
}

void MirroredTable::RmsNorm(const RmsNormParams& params) {
  RmsNormParams p = params;
  Mirror mirror(*inner_);
  mirror.In(p.in, Extent(p.num_rows, p.in_stride, p.width));
  mirror.In(p.weight, p.width);
  mirror.Out(p.out, Extent(p.num_rows, p.out_stride, p.width));
  mirror.Send();
  p.in = mirror.At(p.in);
  p.weight = mirror.At(p.weight);
  p.out = mirror.At(p.out);
  inner_->RmsNorm(p);
  mirror.Fetch();
}

void MirroredTable::LayerNorm(const LayerNormParams& params) {
  LayerNormParams p = params;
  Mirror mirror(*inner_);
  mirror.In(p.in, p.num_rows * p.width);
  mirror.In(p.weight, p.width);
  mirror.In(p.bias, p.width);
  mirror.Out(p.out, p.num_rows * p.width);
  mirror.Send();
  p.in = mirror.At(p.in);
  p.weight = mirror.At(p.weight);
  p.bias = mirror.At(p.bias);
  p.out = mirror.At(p.out);
  inner_->LayerNorm(p);
  mirror.Fetch();
}

void MirroredTable::Rope(const RopeParams& params) {
  RopeParams p = params;
  Mirror mirror(*inner_);
  mirror.Out(p.x, Extent(p.num_tokens, p.token_stride,
                         int64_t{p.num_heads} * p.head_dim));
  mirror.In(p.cos, p.num_tokens * p.rotary_dim / 2);
  mirror.In(p.sin, p.num_tokens * p.rotary_dim / 2);
  mirror.Send();
  p.x = mirror.At(p.x);
  p.cos = mirror.At(p.cos);
  p.sin = mirror.At(p.sin);
  inner_->Rope(p);
  mirror.Fetch();
}

void MirroredTable::SiluMul(const SiluMulParams& params) {
  SiluMulParams p = params;
  Mirror mirror(*inner_);
  mirror.In(p.gate, p.num_tokens * p.width);
  mirror.In(p.up, p.num_tokens * p.width);
  mirror.Out(p.out, p.num_tokens * p.width);
  mirror.Send();
  p.gate = mirror.At(p.gate);
  p.up = mirror.At(p.up);
  p.out = mirror.At(p.out);
  inner_->SiluMul(p);
  mirror.Fetch();
}

void MirroredTable::CacheWrite(const CacheWriteParams& params) {
  CacheWriteParams p = params;
  auto* cache = static_cast<uint8_t*>(p.cache.data);
  Mirror mirror(*inner_);
  mirror.In(p.rows, Extent(p.num_tokens, p.row_stride, p.row_width));
  mirror.In(p.slot_mapping, p.num_tokens);
  mirror.Out(cache, p.cache.bytes());
  mirror.Send();
  p.rows = mirror.At(p.rows);
  p.slot_mapping = mirror.At(p.slot_mapping);
  p.cache.data = mirror.At(cache);
  inner_->CacheWrite(p);
  mirror.Fetch();
}

void MirroredTable::HeadsWrite(const HeadsWriteParams& params) {
  HeadsWriteParams p = params;
  auto* k_cache = static_cast<uint8_t*>(p.k_cache.data);
  auto* v_cache = static_cast<uint8_t*>(p.v_cache.data);
  const int64_t kv_floats = p.num_tokens * p.num_kv_heads * p.head_dim;
  Mirror mirror(*inner_);
  mirror.Out(p.q, p.num_tokens * p.num_heads * p.head_dim);
  mirror.Out(p.k, kv_floats);
  mirror.In(p.v, kv_floats);
  mirror.In(p.q_norm, p.head_dim);
  mirror.In(p.k_norm, p.head_dim);
  mirror.In(p.cos, p.num_tokens * p.head_dim / 2);
  mirror.In(p.sin, p.num_tokens * p.head_dim / 2);
  mirror.In(p.slot_mapping, p.num_tokens);
  mirror.Out(k_cache, p.k_cache.bytes());
  mirror.Out(v_cache, p.v_cache.bytes());
  mirror.Send();
  p.q = mirror.At(p.q);
  p.k = mirror.At(p.k);
  p.v = mirror.At(p.v);
  p.q_norm = mirror.At(p.q_norm);
  p.k_norm = mirror.At(p.k_norm);
  p.cos = mirror.At(p.cos);
  p.sin = mirror.At(p.sin);
  p.slot_mapping = mirror.At(p.slot_mapping);
  p.k_cache.data = mirror.At(k_cache);
  p.v_cache.data = mirror.At(v_cache);
  inner_->HeadsWrite(p);
  mirror.Fetch();
}

void MirroredTable::LatentWrite(const LatentWriteParams& params) {
  LatentWriteParams p = params;
  const int64_t row = p.cache.dim(1);
  auto* cache = static_cast<uint8_t*>(p.cache.data);
  Mirror mirror(*inner_);
  mirror.Out(p.q, p.num_tokens * p.num_heads * p.q_dim);
  if (p.q_rope != nullptr) {
    mirror.Out(p.q_rope,
               Extent(p.num_tokens * p.num_heads, p.q_rope_stride, p.rope_dim));
  }
  mirror.Out(p.latent, p.num_tokens * row);
  mirror.In(p.norm, row - p.rope_dim);
  mirror.In(p.cos, p.num_tokens * p.rope_dim / 2);
  mirror.In(p.sin, p.num_tokens * p.rope_dim / 2);
  mirror.In(p.slot_mapping, p.num_tokens);
  mirror.Out(cache, p.cache.bytes());
  mirror.Send();
  p.q = mirror.At(p.q);
  p.q_rope = mirror.At(p.q_rope);
  p.latent = mirror.At(p.latent);
  p.norm = mirror.At(p.norm);
  p.cos = mirror.At(p.cos);
  p.sin = mirror.At(p.sin);
  p.slot_mapping = mirror.At(p.slot_mapping);
  p.cache.data = mirror.At(cache);
  inner_->LatentWrite(p);
  mirror.Fetch();
}

void MirroredTable::PagedAttention(const PagedAttentionParams& params) {
  PagedAttentionParams p = params;
  const int64_t tokens = p.cu_seqlens_q[p.num_seqs];
  Mirror mirror(*inner_);
  mirror.In(p.q, tokens * p.num_heads * p.head_dim);
  mirror.In(p.cu_seqlens_q, p.num_seqs + 1);
  mirror.In(p.context_lens, p.num_seqs);
  mirror.In(p.block_tables, int64_t{p.num_seqs} * p.max_blocks);
  mirror.In(p.k_cache);
  mirror.In(p.v_cache);
  mirror.Out(p.out, tokens * p.num_heads * p.v_dim);
  mirror.Send();
  p.q = mirror.At(p.q);
  p.cu_seqlens_q = mirror.At(p.cu_seqlens_q);
  p.context_lens = mirror.At(p.context_lens);
  p.block_tables = mirror.At(p.block_tables);
  mirror.Move(p.k_cache);
  mirror.Move(p.v_cache);
  p.out = mirror.At(p.out);
  inner_->PagedAttention(p);
  mirror.Fetch();
}

void MirroredTable::LatentAttention(const LatentAttentionParams& params) {
  LatentAttentionParams p = params;
  const int64_t tokens = p.cu_seqlens_q[p.num_seqs];
  const auto heads = static_cast<int64_t>(p.k_weights.size());
  Mirror mirror(*inner_);
  mirror.In(p.q,
            tokens * heads * (p.k_weights.front()->in_features() + p.rope_dim));
  mirror.In(p.cu_seqlens_q, p.num_seqs + 1);
  mirror.In(p.context_lens, p.num_seqs);
  mirror.In(p.block_tables, int64_t{p.num_seqs} * p.max_blocks);
  mirror.In(p.cache);
  mirror.Out(p.out, tokens * heads * p.v_weights.front()->out_features());
  mirror.Send();
  p.q = mirror.At(p.q);
  p.cu_seqlens_q = mirror.At(p.cu_seqlens_q);
  p.context_lens = mirror.At(p.context_lens);
  p.block_tables = mirror.At(p.block_tables);
  mirror.Move(p.cache);
  p.out = mirror.At(p.out);
  inner_->LatentAttention(p);
  mirror.Fetch();
}

void MirroredTable::CopyRows(const CopyRowsParams& params) {
  CopyRowsParams p = params;
  auto* to = static_cast<uint8_t*>(p.to.data);
  Mirror mirror(*inner_);
  mirror.In(p.from);
  mirror.Out(to, p.to.bytes());
  mirror.In(p.from_rows, p.num_rows);
  mirror.In(p.to_rows, p.num_rows);
  mirror.Send();
  mirror.Move(p.from);
  p.to.data = mirror.At(to);
  p.from_rows = mirror.At(p.from_rows);
  p.to_rows = mirror.At(p.to_rows);
  inner_->CopyRows(p);
  mirror.Fetch();
}

void MirroredTable::KeySelect(const KeySelectParams& params) {
  KeySelectParams p = params;
  const int64_t tokens = p.cu_seqlens_q[p.num_seqs];
  Mirror mirror(*inner_);
  mirror.In(p.q, tokens * p.num_heads * p.head_dim);
  mirror.In(p.weights, tokens * p.num_heads);
  mirror.In(p.keys);
  mirror.In(p.cu_seqlens_q, p.num_seqs + 1);
  mirror.In(p.block_tables, int64_t{p.num_seqs} * p.max_blocks);
  mirror.In(p.num_visible, tokens);
  mirror.Out(p.slots, tokens * p.top_k);
  mirror.Out(p.num_selected, tokens);
  mirror.Send();
  p.q = mirror.At(p.q);
  p.weights = mirror.At(p.weights);
  mirror.Move(p.keys);
  p.cu_seqlens_q = mirror.At(p.cu_seqlens_q);
  p.block_tables = mirror.At(p.block_tables);
  p.num_visible = mirror.At(p.num_visible);
  p.slots = mirror.At(p.slots);
  p.num_selected = mirror.At(p.num_selected);
  inner_->KeySelect(p);
  mirror.Fetch();
}

void MirroredTable::SparseAttention(const SparseAttentionParams& params) {
  SparseAttentionParams p = params;
  std::vector<KeySource> sources(p.sources.begin(), p.sources.end());
  Mirror mirror(*inner_);
  mirror.In(p.q, p.num_tokens * p.num_heads * p.head_dim);
  for (const KeySource& source : sources) {
    mirror.In(source.rows);
    mirror.In(source.slots, p.num_tokens * source.max_keys);
    mirror.In(source.counts, p.num_tokens);
  }
  mirror.In(p.sinks, p.num_heads);
  mirror.Out(p.out, p.num_tokens * p.num_heads * p.v_dim);
  mirror.Send();
  p.q = mirror.At(p.q);
  for (KeySource& source : sources) {
    mirror.Move(source.rows);
    source.slots = mirror.At(source.slots);
    source.counts = mirror.At(source.counts);
  }
  p.sources = sources;
  p.sinks = mirror.At(p.sinks);
  p.out = mirror.At(p.out);
  inner_->SparseAttention(p);
  mirror.Fetch();
}

void MirroredTable::Compress(const CompressParams& params) {
  CompressParams p = params;
  const int64_t tokens = p.cu_seqlens_q[p.num_seqs];
  const int64_t channels = p.overlap ? 2 * p.width : p.width;
  const int64_t slots =
      *std::max_element(p.state_slots, p.state_slots + p.num_seqs) + 1;
  const int64_t closed = std::count_if(
      p.positions, p.positions + tokens,
      [&](int32_t position) { return (position + 1) % p.ratio == 0; });
  Mirror mirror(*inner_);
  mirror.In(p.values, tokens * channels);
  mirror.In(p.gates, tokens * channels);
  mirror.In(p.ape, p.ratio * channels);
  mirror.Out(p.state, slots * CompressStateWidth(p.width, p.overlap));
  mirror.In(p.state_slots, p.num_seqs);
  mirror.In(p.cu_seqlens_q, p.num_seqs + 1);
  mirror.In(p.positions, tokens);
  mirror.Out(p.out, closed * p.width);
  mirror.Send();
  p.values = mirror.At(p.values);
  p.gates = mirror.At(p.gates);
  p.ape = mirror.At(p.ape);
  p.state = mirror.At(p.state);
  p.state_slots = mirror.At(p.state_slots);
  p.cu_seqlens_q = mirror.At(p.cu_seqlens_q);
  p.positions = mirror.At(p.positions);
  p.out = mirror.At(p.out);
  inner_->Compress(p);
  mirror.Fetch();
}

void MirroredTable::HyperMix(const HyperMixParams& params) {
  HyperMixParams p = params;
  const int64_t mixing = p.post == nullptr ? p.m : (2 + p.m) * p.m;
  Mirror mirror(*inner_);
  mirror.In(p.streams, p.num_tokens * p.m * p.hidden_size);
  mirror.In(p.mixing, p.num_tokens * mixing);
  mirror.In(p.base, mixing);
  mirror.In(p.scale, p.post == nullptr ? 1 : 3);
  mirror.Out(p.out, p.num_tokens * p.hidden_size);
  mirror.Out(p.post, p.num_tokens * p.m);
  mirror.Out(p.comb, p.num_tokens * p.m * p.m);
  mirror.Send();
  p.streams = mirror.At(p.streams);
  p.mixing = mirror.At(p.mixing);
  p.base = mirror.At(p.base);
  p.scale = mirror.At(p.scale);
  p.out = mirror.At(p.out);
  p.post = mirror.At(p.post);
  p.comb = mirror.At(p.comb);
  inner_->HyperMix(p);
  mirror.Fetch();
}

void MirroredTable::HyperExpand(const HyperExpandParams& params) {
  HyperExpandParams p = params;
  Mirror mirror(*inner_);
  mirror.In(p.y, p.num_tokens * p.hidden_size);
  mirror.In(p.post, p.num_tokens * p.m);
  mirror.In(p.comb, p.num_tokens * p.m * p.m);
  mirror.Out(p.streams, p.num_tokens * p.m * p.hidden_size);
  mirror.Send();
  p.y = mirror.At(p.y);
  p.post = mirror.At(p.post);
  p.comb = mirror.At(p.comb);
  p.streams = mirror.At(p.streams);
  inner_->HyperExpand(p);
  mirror.Fetch();
}

void MirroredTable::MoeRoute(const MoeRouteParams& params) {
  MoeRouteParams p = params;
  Mirror mirror(*inner_);
  if (p.router != nullptr) {
    mirror.In(p.in, p.num_tokens * p.router->in_features());
  }
  mirror.Out(p.logits, p.num_tokens * p.num_experts);
  mirror.In(p.bias, p.num_experts);
  mirror.In(p.forced_ids, p.num_tokens * p.top_k);
  mirror.Out(p.expert_ids, p.num_tokens * p.top_k);
  mirror.Out(p.expert_weights, p.num_tokens * p.top_k);
  mirror.Send();
  p.in = mirror.At(p.in);
  p.logits = mirror.At(p.logits);
  p.bias = mirror.At(p.bias);
  p.forced_ids = mirror.At(p.forced_ids);
  p.expert_ids = mirror.At(p.expert_ids);
  p.expert_weights = mirror.At(p.expert_weights);
  inner_->MoeRoute(p);
  mirror.Fetch();
}

void MirroredTable::MoeExperts(const MoeExpertsParams& params) {
  MoeExpertsParams p = params;
  Mirror mirror(*inner_);
  mirror.In(p.in, p.num_tokens * p.hidden_size);
  mirror.In(p.expert_ids, p.num_tokens * p.top_k);
  mirror.In(p.expert_weights, p.num_tokens * p.top_k);
  mirror.Out(p.out, p.num_tokens * p.hidden_size);
  if (p.shared.is_here()) {
    mirror.Out(p.shared_scratch,
               2 * p.num_tokens * p.shared.gate->out_features());
  }
  mirror.Send();
  p.in = mirror.At(p.in);
  p.shared_scratch = mirror.At(p.shared_scratch);
  p.expert_ids = mirror.At(p.expert_ids);
  p.expert_weights = mirror.At(p.expert_weights);
  p.out = mirror.At(p.out);
  inner_->MoeExperts(p);
  mirror.Fetch();
}

void MirroredTable::Sample(const SampleParams& params) {
  SampleParams p = params;
  Mirror mirror(*inner_);
  mirror.In(p.logits, p.num_rows * p.width);
  if (p.draws != nullptr) mirror.In(p.draws, p.num_rows);
  mirror.Out(p.out, p.num_rows);
  mirror.Send();
  p.logits = mirror.At(p.logits);
  if (p.draws != nullptr) p.draws = mirror.At(p.draws);
  p.out = mirror.At(p.out);
  inner_->Sample(p);
  mirror.Fetch();
}

}  // namespace shoal
