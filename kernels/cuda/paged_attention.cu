// Attention over a paged cache; see kernels/attention.h. A thread block takes
// neighbouring (token, head) rows of one kv head and runs over their keys. In a
// decode step with few sequences it takes one chunk of keys instead, and a
// second kernel merges the chunks.
#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/attention_ops.h"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/sequence_items.cuh"
#include "kernels/cuda/tensor_tile.cuh"

namespace shoal::cuda {
namespace {

constexpr int64_t kMostPartialBytes = int64_t{512} << 20;

struct PagedArgs {
  PagedAttentionParams p;
  const void* keys;
  const void* values;
  TileShape shape;
  SequenceTiles tiles;
  int32_t group;       // query heads of a kv head
  int32_t max_chunks;  // of a sequence
  bool may_split;
  // Chunks' results, where split: value_dim sums, the maximum and the sum.
  float* partials;  // [num_seqs, num_heads, max_chunks, value_dim + 2]
};

__device__ __forceinline__ int64_t PartialAt(const PagedArgs& a, int64_t seq,
                                             int64_t head, int64_t chunk) {
  return ((seq * a.p.num_heads + head) * a.max_chunks + chunk) *
         (a.shape.value_dim + 2);
}

template <typename Tile>
__global__
__launch_bounds__(kTileThreads, Tile::kBlocks) void PagedAttentionKernel(
    const __grid_constant__ PagedArgs a) {
  const PagedAttentionParams& p = a.p;
  Tile tile(a.shape, reinterpret_cast<float*>(DynamicShared()));
  const bool split = a.may_split && a.tiles.AllDecode();
  const int32_t per_tile = p.num_kv_heads * (split ? a.max_chunks : 1);
  for (int64_t item = blockIdx.x;; item += gridDim.x) {
    const SequenceTile place = a.tiles.Find(item / per_tile);
    if (place.seq < 0) return;
    const auto rest = static_cast<int32_t>(item % per_tile);
    const int32_t kv_head = rest % p.num_kv_heads;
    const int32_t chunk = rest / p.num_kv_heads;
    const int32_t context = p.context_lens[place.seq];
    const int32_t first = split ? chunk * kChunkKeys : 0;
    if (first >= context && split) continue;

    const int32_t first_row = place.tile * a.tiles.rows_per_tile;
    const int32_t left = place.q_len * a.group - first_row;
    const int32_t num_rows =
        left < a.tiles.rows_per_tile ? left : a.tiles.rows_per_tile;
    // Row r: a token and a head of the kv head's group.
    const auto token_of = [&](int32_t r) {
      return place.first_token + (first_row + r) / a.group;
    };
    const auto head_of = [&](int32_t r) {
      return kv_head * a.group + (first_row + r) % a.group;
    };
    for (int32_t r = threadIdx.x / kWarpSize; r < num_rows; r += kTileWarps) {
      const int64_t row = int64_t{token_of(r)} * p.num_heads + head_of(r);
      tile.SetQuery(r, p.q + row * p.head_dim);
    }
    if (static_cast<int32_t>(threadIdx.x) < num_rows) {
      const int32_t r = static_cast<int32_t>(threadIdx.x);
      tile.limit(r) = context - place.q_len + (first_row + r) / a.group + 1;
    }
    tile.Begin(num_rows);

    const int32_t* table = p.block_tables + int64_t{place.seq} * p.max_blocks;
    const auto places = [&](int32_t j) {
      const int64_t slot =
          int64_t{table[j / p.block_size]} * p.block_size + j % p.block_size;
      return slot * p.num_kv_heads + kv_head;
    };
    const int32_t end = split && first + kChunkKeys < tile.most_keys()
                            ? first + kChunkKeys
                            : tile.most_keys();
    for (int32_t begin = first; begin < end; begin += kChunkKeys) {
      const int32_t stop = begin + kChunkKeys < end ? begin + kChunkKeys : end;
      tile.AttendTo(a.keys, a.values, begin, stop, p.scale, places);
      if (!split) tile.CloseChunk();
    }
    if (split) {
      const int32_t width = a.shape.value_dim;
      const auto at = [&](int32_t r) {
        return a.partials + PartialAt(a, place.seq, head_of(r), chunk);
      };
      tile.TakeChunk(at, [&](int32_t r, float max, float sum) {
        float* part = at(r);
        part[width] = max;
        part[width + 1] = sum;
      });
    } else {
      tile.Finish([](int32_t) { return kMinusInfinity; },
                  [&](int32_t r) {
                    const int64_t row =
                        int64_t{token_of(r)} * p.num_heads + head_of(r);
                    return p.out + row * p.v_dim;
                  });
    }
  }
}

// Merges the chunks of one head of one sequence as AttentionTile does. Grid:
// heads, sequences.
__global__ void MergeChunksKernel(const __grid_constant__ PagedArgs a) {
  if (!a.tiles.AllDecode()) return;
  const int32_t width = a.shape.value_dim;
  const int32_t chunks =
      (a.p.context_lens[blockIdx.y] + kChunkKeys - 1) / kChunkKeys;
  const float* chunk = a.partials + PartialAt(a, blockIdx.y, blockIdx.x, 0);
  float* out =
      a.p.out + (int64_t{blockIdx.y} * a.p.num_heads + blockIdx.x) * width;
  for (int32_t d = threadIdx.x; d < width; d += blockDim.x) {
    float max = kMinusInfinity;
    float sum = 0;
    float total = 0;
#pragma unroll 8
    for (int32_t c = 0; c < chunks; ++c) {
      const float* part = chunk + c * (width + 2);
      const float top = fmaxf(max, part[width]);
      const float old_factor = SoftmaxFactor(max, top);
      const float new_factor = SoftmaxFactor(part[width], top);
      sum = fmaf(sum, old_factor, part[width + 1] * new_factor);
      total = fmaf(total, old_factor, part[d] * new_factor);
      max = top;
    }
    out[d] = total / (sum == 0 ? 1.0f : sum);
  }
}

}  // namespace

void PagedAttention(LaunchContext& context, const PagedAttentionParams& p) {
  if (p.num_seqs == 0) return;
  SHOAL_CHECK(p.v_dim <= kMaxValueDim && !p.tiled);
  PagedArgs a;
  a.p = p;
  a.keys = p.k_cache.data;
  a.values = p.v_cache.data;
  a.shape.key_dim = p.head_dim;
  a.shape.value_dim = p.v_dim;
  a.shape.shared_values = p.k_cache.data == p.v_cache.data;
  a.shape.dtype = p.k_cache.dtype;
  const int bytes = 4 * ElementBytes(a.shape.dtype);
  a.shape.aligned = p.head_dim % 4 == 0 &&
                    (a.shape.shared_values || p.v_dim % 4 == 0) &&
                    reinterpret_cast<uintptr_t>(a.keys) % bytes == 0 &&
                    reinterpret_cast<uintptr_t>(a.values) % bytes == 0;
  a.shape.tensor = FitsTensorTile(a.shape, {a.keys, a.values});
  a.group = p.num_heads / p.num_kv_heads;
  a.tiles = {p.cu_seqlens_q, p.num_seqs, a.group, a.shape.rows()};
  // Sequences of more rows than a tile has are for warpgroups.
  if (context.warpgroups().attention && FitsPrefillAttention(p) &&
      p.max_seqlen_q > 1 && int64_t{p.max_seqlen_q} * a.group > kMaxRows) {
    a.tiles.most_rows = kMaxRows;
    PrefillAttention(context, p, kMaxRows + 1);
  }
  a.max_chunks = static_cast<int32_t>(
      (int64_t{p.max_blocks} * p.block_size + kChunkKeys - 1) / kChunkKeys);

  // What a decode step would be without splitting.
  const int64_t decode_items =
      int64_t{p.num_seqs} * p.num_kv_heads *
      ((a.group + a.shape.rows() - 1) / a.shape.rows());
  const int64_t partial_bytes = int64_t{p.num_seqs} * p.num_heads *
                                a.max_chunks * (p.v_dim + 2) *
                                static_cast<int64_t>(sizeof(float));
  a.may_split = a.max_chunks > 1 && partial_bytes <= kMostPartialBytes &&
                decode_items < 4 * context.num_multiprocessors();
  a.partials = nullptr;
  if (a.may_split) {
    a.partials = static_cast<float*>(context.Scratch(partial_bytes));
    if (a.partials == nullptr) return;
  }
  const size_t shared = a.shape.shared_floats() * sizeof(float);
  WithTile(a.shape, [&]<typename Tile>() {
    const dim3 grid(Tile::kBlocks *
                    static_cast<unsigned>(context.num_multiprocessors()));
    context.Launch(PagedAttentionKernel<Tile>, grid, kTileThreads, shared, a);
  });
  if (a.may_split) {
    context.Launch(MergeChunksKernel,
                   dim3(static_cast<unsigned>(p.num_heads),
                        static_cast<unsigned>(p.num_seqs)),
                   128, 0, a);
  }
}

}  // namespace shoal::cuda
