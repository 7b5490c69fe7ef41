// Launchers of the attention ops; the params are those of the kernel table's
// ops, the pointers the device's. Sequences' lengths lie on the device too, so
// grids are persistent: thread blocks find their items there. Over caches in
// bf16, queries and softmax weights are rounded to bf16 for the tensor cores;
// over others the arithmetic is f32.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear.h"
#include "kernels/latent_attention.h"
#include "kernels/sparse_attention.h"

namespace shoal::cuda {

void PagedAttention(LaunchContext& context, const PagedAttentionParams& params);
// PagedAttention() of the sequences with at least `least_rows` rows, tokens
// times query heads of a kv head. REQUIRES: context.warpgroups().attention and
// FitsPrefillAttention().
void PrefillAttention(LaunchContext& context,
                      const PagedAttentionParams& params, int32_t least_rows);
bool FitsPrefillAttention(const PagedAttentionParams& params);

// The up-projections of one layer's heads, as their matrices lie there.
struct LatentWeights {
  MatrixShape k_shape, v_shape;
  const WeightPointers* k = nullptr;  // device [num_heads]
  const WeightPointers* v = nullptr;
  int32_t num_heads = 0;
};
void LatentAttention(LaunchContext& context,
                     const LatentAttentionParams& params,
                     const LatentWeights& weights);

// Keys and values of some heads, which latent rows were expanded to, as bf16,
// one sequence behind the other. The sizes are those of DeepSeek's models.
struct ExpandedRows {
  static constexpr int kNopeDim = 128, kRopeDim = 64, kValueDim = 128;
  static constexpr int kKeyDim = kNopeDim + kRopeDim;

  uint16_t* keys = nullptr;  // [num_seqs · slots_of_seq, num_heads, kKeyDim]
  uint16_t* values =
      nullptr;  // [num_seqs · slots_of_seq, num_heads, kValueDim]
  int64_t slots_of_seq = 0;
  int32_t first_head = 0, num_heads = 0;
};
// Whether the two below can do an op: its sizes, its types and its device.
bool FitsExpandedAttention(const LaunchContext& context,
                           const LatentAttentionParams& params,
                           const LatentWeights& weights);
void ExpandLatentRows(LaunchContext& context,
                      const LatentAttentionParams& params,
                      const LatentWeights& weights, const ExpandedRows& rows);
void ExpandedAttention(LaunchContext& context,
                       const LatentAttentionParams& params,
                       const ExpandedRows& rows, int32_t num_heads);

void KeySelect(LaunchContext& context, const KeySelectParams& params);
void SparseAttention(LaunchContext& context,
                     const SparseAttentionParams& params);

}  // namespace shoal::cuda
