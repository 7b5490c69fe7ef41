#include "tests/engine/checked_table.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace shoal {
namespace {

using Access = GuardedMemory::Access;

// Elements of `rows` rows of `width`, `stride` apart.
int64_t Extent(int64_t rows, int64_t stride, int64_t width) {
  return rows == 0 ? 0 : (rows - 1) * stride + width;
}

void UseView(Access& access, std::string_view argument,
             const ConstTensorView& view) {
  access.Use(argument, view.data, view.bytes());
}

// What ops over sequences share; returns the number of tokens.
int64_t UseSequences(Access& access, const int32_t* cu_seqlens_q,
                     int64_t num_seqs) {
  access.Array("cu_seqlens_q", cu_seqlens_q, num_seqs + 1);
  return cu_seqlens_q[num_seqs];
}

}  // namespace

CheckedTable::CheckedTable(std::unique_ptr<KernelTable> inner)
    : inner_(std::move(inner)), memory_(std::make_shared<GuardedMemory>()) {
  SHOAL_CHECK(inner_->memory_is_host());
}

bool CheckedTable::Begin() {
  if (ops_left_ <= 0) return false;
  --ops_left_;
  return true;
}

absl::Status CheckedTable::Synchronize() {
  return ops_left_ > 0 ? inner_->Synchronize()
                       : absl::InternalError("device: an injected fault");
}

absl::StatusOr<std::unique_ptr<DeviceBuffer>> CheckedTable::Allocate(
    int64_t bytes) {
  std::unique_ptr<DeviceBuffer> buffer = memory_->Allocate(bytes);
  if (buffer == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", bytes, " bytes"));
  }
  return buffer;
}

void CheckedTable::Upload(const void* host, int64_t bytes, void* device) {
  Access access(*memory_, "Upload");
  access.Host("host", host);
  access.Use("device", device, bytes);
  std::memcpy(device, host, bytes);
}

absl::Status CheckedTable::Download(const void* device, int64_t bytes,
                                    void* host) {
  Access access(*memory_, "Download");
  access.Host("host", host);
  access.Use("device", device, bytes);
  absl::Status status = Synchronize();
  if (status.ok()) std::memcpy(host, device, bytes);
  return status;
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> CheckedTable::Pack(
    const WeightView& weight, Precision precision) {
  const Access access(*memory_, "Pack");
  access.Host("data", weight.data.data);
  access.Host("scales", weight.scales.data);
  return inner_->Pack(weight, precision);
}

void CheckedTable::Linear(const LinearParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "Linear");
  access.Array("in", p.in, p.num_tokens * p.in_features);
  for (const LinearPart& part : p.parts) {
    const int64_t width = part.weight->out_features();
    const int64_t stride = part.out_stride > 0 ? part.out_stride : width;
    access.Optional("bias", part.bias, width);
    access.Array("out", part.out, Extent(p.num_tokens, stride, width));
  }
  inner_->Linear(p);
}

void CheckedTable::HeadLinear(const HeadLinearParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "HeadLinear");
  const auto heads = static_cast<int64_t>(p.weights.size());
  const PackedMatrix& weight = *p.weights.front();
  const int64_t in = Extent(heads, p.in_head_stride, weight.in_features());
  const int64_t out = Extent(heads, p.out_head_stride, weight.out_features());
  access.Array("in", p.in, Extent(p.num_tokens, p.in_token_stride, in));
  access.Array("out", p.out, Extent(p.num_tokens, p.out_token_stride, out));
  inner_->HeadLinear(p);
}

void CheckedTable::GatedLinear(const GatedLinearParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "GatedLinear");
  access.Array("in", p.in, p.num_tokens * p.in_features);
  for (const LinearPart* part : {&p.gate, &p.up}) {
    const int64_t width = part->weight->out_features();
    access.Optional("bias", part->bias, width);
    access.Array("out", part->out, p.num_tokens * width);
  }
  inner_->GatedLinear(p);
}

void CheckedTable::Zero(float* out, int64_t n) {
  if (!Begin()) return;
  Access access(*memory_, "Zero");
  access.Array("out", out, n);
  inner_->Zero(out, n);
}

void CheckedTable::Add(const float* in, int64_t n, float* out) {
  if (!Begin()) return;
  Access access(*memory_, "Add");
  access.Array("in", in, n);
  access.Array("out", out, n);
  inner_->Add(in, n, out);
}

void CheckedTable::Embedding(const EmbeddingParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "Embedding");
  UseView(access, "table", p.table.data);
  if (!p.table.scales.empty()) UseView(access, "scales", p.table.scales);
  access.Array("token_ids", p.token_ids, p.num_tokens);
  access.Array("out", p.out, p.num_tokens * p.table.in_features());
  inner_->Embedding(p);
}

void CheckedTable::RmsNorm(const RmsNormParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "RmsNorm");
  access.Array("in", p.in, Extent(p.num_rows, p.in_stride, p.width));
  access.Optional("weight", p.weight, p.width);
  access.Array("out", p.out, Extent(p.num_rows, p.out_stride, p.width));
  inner_->RmsNorm(p);
}

void CheckedTable::LayerNorm(const LayerNormParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "LayerNorm");
  access.Array("in", p.in, p.num_rows * p.width);
  access.Array("weight", p.weight, p.width);
  access.Array("bias", p.bias, p.width);
  access.Array("out", p.out, p.num_rows * p.width);
  inner_->LayerNorm(p);
}

void CheckedTable::Rope(const RopeParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "Rope");
  access.Array(
      "x", p.x,
      Extent(p.num_tokens, p.token_stride, int64_t{p.num_heads} * p.head_dim));
  access.Array("cos", p.cos, p.num_tokens * p.rotary_dim / 2);
  access.Array("sin", p.sin, p.num_tokens * p.rotary_dim / 2);
  inner_->Rope(p);
}

void CheckedTable::SiluMul(const SiluMulParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "SiluMul");
  access.Array("gate", p.gate, p.num_tokens * p.width);
  access.Array("up", p.up, p.num_tokens * p.width);
  access.Array("out", p.out, p.num_tokens * p.width);
  inner_->SiluMul(p);
}

void CheckedTable::CacheWrite(const CacheWriteParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "CacheWrite");
  access.Array("rows", p.rows, Extent(p.num_tokens, p.row_stride, p.row_width));
  access.Array("slot_mapping", p.slot_mapping, p.num_tokens);
  UseView(access, "cache", p.cache);
  inner_->CacheWrite(p);
}

void CheckedTable::HeadsWrite(const HeadsWriteParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "HeadsWrite");
  const int64_t kv_floats = p.num_tokens * p.num_kv_heads * p.head_dim;
  access.Array("q", p.q, p.num_tokens * p.num_heads * p.head_dim);
  access.Array("k", p.k, kv_floats);
  access.Array("v", p.v, kv_floats);
  access.Optional("q_norm", p.q_norm, p.head_dim);
  access.Optional("k_norm", p.k_norm, p.head_dim);
  access.Array("cos", p.cos, p.num_tokens * p.head_dim / 2);
  access.Array("sin", p.sin, p.num_tokens * p.head_dim / 2);
  access.Array("slot_mapping", p.slot_mapping, p.num_tokens);
  UseView(access, "k_cache", p.k_cache);
  UseView(access, "v_cache", p.v_cache);
  inner_->HeadsWrite(p);
}

void CheckedTable::LatentWrite(const LatentWriteParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "LatentWrite");
  const int64_t row = p.cache.dim(1);
  access.Array("q", p.q, p.num_tokens * p.num_heads * p.q_dim);
  if (p.q_rope != nullptr) {
    access.Array(
        "q_rope", p.q_rope,
        Extent(p.num_tokens * p.num_heads, p.q_rope_stride, p.rope_dim));
  }
  access.Array("latent", p.latent, p.num_tokens * row);
  access.Array("norm", p.norm, row - p.rope_dim);
  access.Array("cos", p.cos, p.num_tokens * p.rope_dim / 2);
  access.Array("sin", p.sin, p.num_tokens * p.rope_dim / 2);
  access.Array("slot_mapping", p.slot_mapping, p.num_tokens);
  UseView(access, "cache", p.cache);
  inner_->LatentWrite(p);
}

void CheckedTable::PagedAttention(const PagedAttentionParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "PagedAttention");
  const int64_t tokens = UseSequences(access, p.cu_seqlens_q, p.num_seqs);
  access.Array("q", p.q, tokens * p.num_heads * p.head_dim);
  access.Array("context_lens", p.context_lens, p.num_seqs);
  access.Array("block_tables", p.block_tables,
               int64_t{p.num_seqs} * p.max_blocks);
  UseView(access, "k_cache", p.k_cache);
  UseView(access, "v_cache", p.v_cache);
  access.Array("out", p.out, tokens * p.num_heads * p.v_dim);
  inner_->PagedAttention(p);
}

void CheckedTable::LatentAttention(const LatentAttentionParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "LatentAttention");
  const int64_t tokens = UseSequences(access, p.cu_seqlens_q, p.num_seqs);
  const auto heads = static_cast<int64_t>(p.k_weights.size());
  const int64_t q_dim = p.k_weights.front()->in_features() + p.rope_dim;
  access.Array("q", p.q, tokens * heads * q_dim);
  access.Array("context_lens", p.context_lens, p.num_seqs);
  access.Array("block_tables", p.block_tables,
               int64_t{p.num_seqs} * p.max_blocks);
  UseView(access, "cache", p.cache);
  access.Array("out", p.out,
               tokens * heads * p.v_weights.front()->out_features());
  inner_->LatentAttention(p);
}

void CheckedTable::CopyRows(const CopyRowsParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "CopyRows");
  UseView(access, "from", p.from);
  UseView(access, "to", p.to);
  access.Array("from_rows", p.from_rows, p.num_rows);
  access.Array("to_rows", p.to_rows, p.num_rows);
  inner_->CopyRows(p);
}

void CheckedTable::KeySelect(const KeySelectParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "KeySelect");
  const int64_t tokens = UseSequences(access, p.cu_seqlens_q, p.num_seqs);
  access.Array("q", p.q, tokens * p.num_heads * p.head_dim);
  access.Array("weights", p.weights, tokens * p.num_heads);
  UseView(access, "keys", p.keys);
  access.Array("block_tables", p.block_tables,
               int64_t{p.num_seqs} * p.max_blocks);
  access.Array("num_visible", p.num_visible, tokens);
  access.Array("slots", p.slots, tokens * p.top_k);
  access.Array("num_selected", p.num_selected, tokens);
  inner_->KeySelect(p);
}

void CheckedTable::SparseAttention(const SparseAttentionParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "SparseAttention");
  access.Array("q", p.q, p.num_tokens * p.num_heads * p.head_dim);
  for (const KeySource& source : p.sources) {
    UseView(access, "rows", source.rows);
    access.Array("slots", source.slots, p.num_tokens * source.max_keys);
    access.Array("counts", source.counts, p.num_tokens);
  }
  access.Optional("sinks", p.sinks, p.num_heads);
  access.Array("out", p.out, p.num_tokens * p.num_heads * p.v_dim);
  inner_->SparseAttention(p);
}

void CheckedTable::Compress(const CompressParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "Compress");
  const int64_t tokens = UseSequences(access, p.cu_seqlens_q, p.num_seqs);
  const int64_t channels = p.overlap ? 2 * p.width : p.width;
  access.Array("values", p.values, tokens * channels);
  access.Array("gates", p.gates, tokens * channels);
  access.Array("ape", p.ape, p.ratio * channels);
  access.Array("state_slots", p.state_slots, p.num_seqs);
  const int64_t slots =
      *std::max_element(p.state_slots, p.state_slots + p.num_seqs) + 1;
  access.Array("state", p.state,
               slots * CompressStateWidth(p.width, p.overlap));
  access.Array("positions", p.positions, tokens);
  const int64_t closed = std::count_if(
      p.positions, p.positions + tokens,
      [&](int32_t position) { return (position + 1) % p.ratio == 0; });
  access.Array("out", p.out, closed * p.width);
  inner_->Compress(p);
}

void CheckedTable::HyperMix(const HyperMixParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "HyperMix");
  const int64_t mixing = p.post == nullptr ? p.m : (2 + p.m) * p.m;
  access.Array("streams", p.streams, p.num_tokens * p.m * p.hidden_size);
  access.Array("mixing", p.mixing, p.num_tokens * mixing);
  access.Array("base", p.base, mixing);
  access.Array("scale", p.scale, p.post == nullptr ? 1 : 3);
  access.Array("out", p.out, p.num_tokens * p.hidden_size);
  access.Optional("post", p.post, p.num_tokens * p.m);
  access.Optional("comb", p.comb, p.num_tokens * p.m * p.m);
  inner_->HyperMix(p);
}

void CheckedTable::HyperExpand(const HyperExpandParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "HyperExpand");
  access.Array("y", p.y, p.num_tokens * p.hidden_size);
  access.Array("post", p.post, p.num_tokens * p.m);
  access.Array("comb", p.comb, p.num_tokens * p.m * p.m);
  access.Array("streams", p.streams, p.num_tokens * p.m * p.hidden_size);
  inner_->HyperExpand(p);
}

void CheckedTable::MoeRoute(const MoeRouteParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "MoeRoute");
  if (p.router != nullptr) {
    access.Array("in", p.in, p.num_tokens * p.router->in_features());
  }
  access.Array("logits", p.logits, p.num_tokens * p.num_experts);
  access.Optional("bias", p.bias, p.num_experts);
  access.Optional("forced_ids", p.forced_ids, p.num_tokens * p.top_k);
  access.Array("expert_ids", p.expert_ids, p.num_tokens * p.top_k);
  access.Array("expert_weights", p.expert_weights, p.num_tokens * p.top_k);
  inner_->MoeRoute(p);
}

void CheckedTable::MoeExperts(const MoeExpertsParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "MoeExperts");
  access.Array("in", p.in, p.num_tokens * p.hidden_size);
  access.Array("expert_ids", p.expert_ids, p.num_tokens * p.top_k);
  access.Array("expert_weights", p.expert_weights, p.num_tokens * p.top_k);
  access.Array("out", p.out, p.num_tokens * p.hidden_size);
  if (p.shared.is_here()) {
    access.Array("shared_scratch", p.shared_scratch,
                 2 * p.num_tokens * p.shared.gate->out_features());
  }
  inner_->MoeExperts(p);
}

void CheckedTable::Sample(const SampleParams& p) {
  if (!Begin()) return;
  Access access(*memory_, "Sample");
  access.Array("logits", p.logits, p.num_rows * p.width);
  if (p.draws != nullptr) access.Array("draws", p.draws, p.num_rows);
  access.Array("out", p.out, p.num_rows);
  inner_->Sample(p);
}

}  // namespace shoal
