// Attention over latent rows with keys and values expanded; see
// kernels/latent_attention.h. Where warpgroups have kernels for it they are.
// Else the up-projections are taken over to the queries and to the results,
// which gives the same sums in another order:
//   q·[Uk c | r] = [Ukᵀ q | q_rope]·[c | r],   Σ w (Uv c) = Uv Σ w c
// so that both are products of many rows and the rest is PagedAttention().
#include <algorithm>

#include "kernels/cuda/attention_ops.h"
#include "kernels/cuda/row_ops.h"

namespace shoal::cuda {
namespace {

// Bounds the scratch memory: heads are worked on in parts.
constexpr int64_t kMostBytes = int64_t{256} << 20;

// False where one head's rows are more than the scratch memory's bound.
bool AttendExpanded(LaunchContext& context, const LatentAttentionParams& p,
                    const LatentWeights& weights) {
  ExpandedRows rows;
  rows.slots_of_seq = p.max_blocks * p.cache.dim(1);
  const int64_t slots = p.num_seqs * rows.slots_of_seq;
  constexpr int64_t kSlotBytes =
      (ExpandedRows::kKeyDim + ExpandedRows::kValueDim) * sizeof(uint16_t);
  const int64_t heads_at_once =
      std::min(kMostBytes / (slots * kSlotBytes), int64_t{weights.num_heads});
  if (heads_at_once == 0) return false;
  rows.keys = static_cast<uint16_t*>(
      context.Scratch(heads_at_once * slots * kSlotBytes, ScratchUse::kLatent));
  if (rows.keys == nullptr) return true;  // after an error
  for (int32_t first = 0; first < weights.num_heads;
       first += static_cast<int32_t>(heads_at_once)) {
    rows.first_head = first;
    rows.num_heads = static_cast<int32_t>(
        std::min(heads_at_once, int64_t{weights.num_heads} - first));
    rows.values = rows.keys + slots * rows.num_heads * ExpandedRows::kKeyDim;
    ExpandLatentRows(context, p, weights, rows);
    ExpandedAttention(context, p, rows, weights.num_heads);
  }
  return true;
}

}  // namespace

void LatentAttention(LaunchContext& context, const LatentAttentionParams& p,
                     const LatentWeights& weights) {
  if (p.num_seqs == 0 || p.num_tokens == 0) return;
  if (FitsExpandedAttention(context, p, weights) &&
      AttendExpanded(context, p, weights)) {
    return;
  }
  const int64_t all_heads = weights.num_heads;
  const int64_t rank = weights.k_shape.out_features;
  const int64_t nope = weights.k_shape.in_features;
  const int64_t value = weights.v_shape.out_features;
  const int64_t q_dim = nope + p.rope_dim;
  const int64_t row = rank + p.rope_dim;
  const int64_t head_bytes =
      p.num_tokens * (row + rank) * static_cast<int64_t>(sizeof(float));
  const int64_t heads_at_once =
      std::clamp(kMostBytes / head_bytes, int64_t{1}, all_heads);
  auto* absorbed = static_cast<float*>(
      context.Scratch(heads_at_once * head_bytes, ScratchUse::kLatent));
  if (absorbed == nullptr) return;

  for (int64_t first = 0; first < all_heads; first += heads_at_once) {
    const int64_t heads = std::min(heads_at_once, all_heads - first);
    float* attended = absorbed + p.num_tokens * heads * row;
    GroupedProduct product;
    product.num_groups = heads;
    product.num_rows = p.num_tokens;

    product.shape = weights.k_shape;
    product.groups = weights.k + first;
    product.in = p.q + (p.first_token * all_heads + first) * q_dim;
    product.in_stride = all_heads * q_dim;
    product.in_group_stride = q_dim;
    product.out = absorbed;
    product.out_stride = heads * row;
    product.out_group_stride = row;
    RunProduct(context, product);
    HeadTails tails;
    tails.in = product.in + nope;
    tails.in_token_stride = product.in_stride;
    tails.in_head_stride = q_dim;
    tails.out = absorbed + rank;
    tails.out_token_stride = heads * row;
    tails.out_head_stride = row;
    tails.num_tokens = p.num_tokens;
    tails.num_heads = heads;
    tails.tail = p.rope_dim;
    CopyTails(context, tails);

    PagedAttentionParams attention;
    // Rows are counted from the batch's first token on.
    attention.q = absorbed - p.first_token * heads * row;
    attention.cu_seqlens_q = p.cu_seqlens_q;
    attention.context_lens = p.context_lens;
    attention.block_tables = p.block_tables;
    attention.k_cache =
        ConstTensorView(p.cache.data, p.cache.dtype,
                        {p.cache.dim(0), p.cache.dim(1), 1, p.cache.dim(2)});
    attention.v_cache = attention.k_cache;
    attention.out = attended - p.first_token * heads * rank;
    attention.num_seqs = p.num_seqs;
    attention.max_blocks = p.max_blocks;
    attention.block_size = static_cast<int32_t>(p.cache.dim(1));
    attention.num_heads = static_cast<int32_t>(heads);
    attention.num_kv_heads = 1;
    attention.head_dim = static_cast<int32_t>(row);
    attention.v_dim = static_cast<int32_t>(rank);
    attention.scale = p.scale;
    PagedAttention(context, attention);

    product.shape = weights.v_shape;
    product.groups = weights.v + first;
    product.in = attended;
    product.in_stride = heads * rank;
    product.in_group_stride = rank;
    product.out = p.out + (p.first_token * all_heads + first) * value;
    product.out_stride = all_heads * value;
    product.out_group_stride = value;
    RunProduct(context, product);
  }
}

}  // namespace shoal::cuda
