// Attention over latent rows with keys and values expanded; see
// kernels/latent_attention.h. Plain form: a thread block folds the
// up-projections of one head into its queries and results instead of expanding
// keys, which gives the same sums in another order:
//   q·[Uk c | r] = [Ukᵀ q | q_rope]·[c | r],   Σ w (Uv c) = Uv Σ w c
#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/attention_ops.h"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/decode_weights.cuh"
#include "kernels/cuda/sequence_items.cuh"
#include "kernels/cuda/tensor_tile.cuh"

namespace shoal::cuda {
namespace {

struct LatentArgs {
  const float* q;
  const int32_t* context_lens;
  const int32_t* block_tables;
  const void* cache;
  float* out;
  int32_t max_blocks, block_size;
  int32_t num_heads, rank, nope_dim, rope_dim, v_dim;
  float scale;
  TileShape shape;
  SequenceTiles tiles;
  const WeightPointers* k;
  const WeightPointers* v;
  WeightLayout k_layout, v_layout;
};

// out(r, o) = Σ_i in[r · stride + i] · W[o, i]: a thread an output feature,
// kRowsOfThread rows of input at once.
template <DType kType, typename Write>
__device__ __forceinline__ void MultiplyRows(const WeightPointers& weight,
                                             const WeightLayout& layout,
                                             int32_t out_features,
                                             const float* in, int32_t stride,
                                             int32_t num_rows,
                                             const Write& write) {
  const auto width = static_cast<int32_t>(layout.in_features);
  for (int32_t o = threadIdx.x; o < out_features; o += kTileThreads) {
    for (int32_t first = 0; first < num_rows; first += kRowsOfThread) {
      float sums[kRowsOfThread] = {};
      for (int32_t k = 0; k < width; k += kUnit) {
        float w[kUnit];
        LoadWeights8<kType>(weight.data, weight.scales, layout, o, k, w);
        const int32_t count = width - k < kUnit ? width - k : kUnit;
#pragma unroll
        for (int r = 0; r < kRowsOfThread; ++r) {
          if (first + r < num_rows) {
            const float* x = in + (first + r) * stride + k;
#pragma unroll
            for (int i = 0; i < kUnit; ++i) {
              if (i < count) sums[r] = fmaf(w[i], x[i], sums[r]);
            }
          }
        }
      }
#pragma unroll
      for (int r = 0; r < kRowsOfThread; ++r) {
        if (first + r < num_rows) write(first + r, o, sums[r]);
      }
    }
  }
}

template <DType kType, typename Tile>
__global__ __launch_bounds__(kTileThreads, 1) void LatentAttentionKernel(
    const __grid_constant__ LatentArgs a) {
  Tile tile(a.shape, reinterpret_cast<float*>(DynamicShared()));
  const int32_t q_dim = a.nope_dim + a.rope_dim;
  const int32_t stride = a.shape.query_stride();
  for (int64_t item = blockIdx.x;; item += gridDim.x) {
    const SequenceTile place = a.tiles.Find(item / a.num_heads);
    if (place.seq < 0) return;
    const auto head = static_cast<int32_t>(item % a.num_heads);
    const int32_t context = a.context_lens[place.seq];
    const int32_t first_row = place.tile * a.tiles.rows_per_tile;
    const int32_t left = place.q_len - first_row;
    const int32_t num_rows =
        left < a.tiles.rows_per_tile ? left : a.tiles.rows_per_tile;
    const int64_t first_token = place.first_token + first_row;

    // The part of q that meets the latent waits where keys will lie.
    float* nope = tile.free_floats();
    for (int32_t i = threadIdx.x; i < num_rows * q_dim; i += kTileThreads) {
      const int32_t r = i / q_dim;
      const int32_t d = i % q_dim;
      const float x = a.q[((first_token + r) * a.num_heads + head) * q_dim + d];
      if (d < a.nope_dim) {
        nope[r * a.nope_dim + d] = x;
      } else {
        tile.query(r)[a.rank + d - a.nope_dim] = x;
      }
    }
    for (int32_t i = threadIdx.x; i < num_rows * stride; i += kTileThreads) {
      if (i % stride >= a.shape.key_dim) tile.queries()[i] = 0;
    }
    if (static_cast<int32_t>(threadIdx.x) < num_rows) {
      const auto r = static_cast<int32_t>(threadIdx.x);
      tile.limit(r) = context - place.q_len + first_row + r + 1;
    }
    __syncthreads();
    MultiplyRows<kType>(
        a.k[head], a.k_layout, a.rank, nope, a.nope_dim, num_rows,
        [&](int32_t r, int32_t o, float x) { tile.query(r)[o] = x; });
    tile.Begin(num_rows);

    const int32_t* table = a.block_tables + int64_t{place.seq} * a.max_blocks;
    for (int32_t begin = 0; begin < tile.most_keys(); begin += kChunkKeys) {
      const int32_t end = begin + kChunkKeys < tile.most_keys()
                              ? begin + kChunkKeys
                              : tile.most_keys();
      tile.AttendTo(a.cache, a.cache, begin, end, a.scale, [&](int32_t j) {
        return int64_t{table[j / a.block_size]} * a.block_size +
               j % a.block_size;
      });
      tile.CloseChunk();
    }
    // Results in the latent's space go where the queries were.
    tile.Finish(
        [](int32_t) { return kMinusInfinity; },
        [&](int32_t r, int32_t column, float x) { tile.query(r)[column] = x; });
    MultiplyRows<kType>(
        a.v[head], a.v_layout, a.v_dim, tile.queries(), stride, num_rows,
        [&](int32_t r, int32_t o, float x) {
          a.out[((first_token + r) * a.num_heads + head) * a.v_dim + o] = x;
        });
    __syncthreads();
  }
}

WeightLayout LayoutOf(const MatrixShape& shape) {
  WeightLayout layout;
  layout.row_bytes = DTypeBytes(shape.dtype, shape.in_features);
  layout.in_features = shape.in_features;
  layout.aligned = shape.aligned && layout.row_bytes % 16 == 0;
  return layout;
}

}  // namespace

void LatentAttention(LaunchContext& context, const LatentAttentionParams& p,
                     const LatentWeights& weights) {
  if (p.num_seqs == 0) return;
  LatentArgs a;
  a.q = p.q;
  a.context_lens = p.context_lens;
  a.block_tables = p.block_tables;
  a.cache = p.cache.data;
  a.out = p.out;
  a.max_blocks = p.max_blocks;
  a.block_size = static_cast<int32_t>(p.cache.dim(1));
  a.num_heads = weights.num_heads;
  a.rank = static_cast<int32_t>(weights.k_shape.out_features);
  a.nope_dim = static_cast<int32_t>(weights.k_shape.in_features);
  a.rope_dim = p.rope_dim;
  a.v_dim = static_cast<int32_t>(weights.v_shape.out_features);
  a.scale = p.scale;
  a.shape.key_dim = a.rank + a.rope_dim;
  a.shape.value_dim = a.rank;
  a.shape.shared_values = true;
  a.shape.dtype = p.cache.dtype;
  a.shape.aligned =
      a.shape.key_dim % 4 == 0 && reinterpret_cast<uintptr_t>(p.cache.data) %
                                          (4 * ElementBytes(p.cache.dtype)) ==
                                      0;
  a.k = weights.k;
  a.v = weights.v;
  a.k_layout = LayoutOf(weights.k_shape);
  a.v_layout = LayoutOf(weights.v_shape);
  a.shape.tensor = FitsTensorTile(a.shape, {a.cache});
  // The queries' first part must fit where the tile keeps its keys.
  const int32_t behind = a.shape.free_floats();
  a.tiles = {p.cu_seqlens_q, p.num_seqs, 1,
             std::min(a.shape.rows(), std::max(1, behind / a.nope_dim))};
  SHOAL_CHECK(a.rank <= kMaxValueDim && a.nope_dim <= behind &&
              weights.k_shape.dtype == weights.v_shape.dtype);
  const dim3 grid(4 * static_cast<unsigned>(context.num_multiprocessors()));
  const size_t shared = a.shape.shared_floats() * sizeof(float);
  SHOAL_CHECK(PlainTypes::Dispatch(weights.k_shape.dtype, [&]<DType kType>() {
    WithTile(a.shape, [&]<typename Tile>() {
      context.Launch(LatentAttentionKernel<kType, Tile>, grid, kTileThreads,
                     shared, a);
    });
  }));
}

}  // namespace shoal::cuda
