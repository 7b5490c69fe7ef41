// The exact top-k of an indexer; see kernels/sparse_attention.h: scores of all
// of a token's keys into scratch memory, then the k-th largest by its bits,
// eight at a time from the top, then the chosen keys in rising order. A thread
// block does all that for one token at a time; in a decode step, whose tokens
// are few, many share the scoring of one, and a larger one chooses.
#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/attention_ops.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/sequence_items.cuh"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kChoosingThreads = 1024;
constexpr int kMostWarps = kChoosingThreads / kWarpSize;
constexpr int kSegmentKeys = 256;  // that a thread block scores for another
constexpr int kDigits = 256;
constexpr int64_t kMostSharedScores = int64_t{512} << 20;  // bytes

struct SelectArgs {
  KeySelectParams p;
  const void* keys;
  DType dtype;
  bool aligned;
  SequenceTiles tiles;
  // Scores as ordered bits, of a thread block's token or of each sequence's in
  // a decode step that is shared.
  uint32_t* order;  // [max(thread blocks, num_seqs), max_keys]
  int64_t max_keys;
  bool may_share;

  __device__ __forceinline__ bool IsShared() const {
    return may_share && tiles.AllDecode();
  }
};

// Shared memory of a thread block.
struct SelectShared {
  float* q;         // [num_heads, dim4], zeros behind head_dim
  float* weights;   // [num_heads]
  float* keys;      // [kWarpSize, dim4 + 4]
  float* partial;   // [kWarps, kWarpSize]
  int32_t* counts;  // [kDigits]
  int32_t* totals;  // [2, kMostWarps]
};

__host__ __device__ int32_t PaddedDim(int32_t head_dim) {
  return (head_dim + 3) / 4 * 4;
}

__host__ __device__ int64_t SharedFloats(const KeySelectParams& p) {
  const int64_t dim = PaddedDim(p.head_dim);
  const int64_t heads = (p.num_heads + 3) / 4 * 4;
  return heads * dim + heads + kWarpSize * (dim + 4) + kThreads + kDigits +
         2 * kMostWarps;
}

__device__ SelectShared Divide(const KeySelectParams& p) {
  const int64_t dim = PaddedDim(p.head_dim);
  const int64_t heads = (p.num_heads + 3) / 4 * 4;
  SelectShared s;
  s.q = reinterpret_cast<float*>(DynamicShared());
  s.weights = s.q + heads * dim;
  s.keys = s.weights + heads;
  s.partial = s.keys + kWarpSize * (dim + 4);
  s.counts = reinterpret_cast<int32_t*>(s.partial + kThreads);
  s.totals = s.counts + kDigits;
  return s;
}

// Bits that are ordered as the numbers are; -0 and +0 are one.
__device__ __forceinline__ uint32_t Ordered(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Of keys [begin, visible).
__device__ void ScoreKeys(const SelectArgs& a, const SelectShared& s,
                          int64_t token, const int32_t* table, int32_t begin,
                          int32_t visible, uint32_t* order) {
  const KeySelectParams& p = a.p;
  const int32_t dim = PaddedDim(p.head_dim);
  const int32_t stride = dim + 4;
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const float* q = p.q + token * p.num_heads * p.head_dim;
  for (int32_t i = threadIdx.x; i < p.num_heads * dim; i += kThreads) {
    const int32_t d = i % dim;
    s.q[i] = d < p.head_dim ? q[i / dim * p.head_dim + d] : 0;
  }
  for (int32_t h = threadIdx.x; h < p.num_heads; h += kThreads) {
    s.weights[h] = p.weights[token * p.num_heads + h];
  }
  for (int32_t first = begin; first < visible; first += kWarpSize) {
    __syncthreads();
    for (int32_t t = warp; t < kWarpSize; t += kWarps) {
      const int32_t j = first + t;
      float* row = s.keys + t * stride;
      if (j >= visible) {
        for (int32_t d = lane; d < dim; d += kWarpSize) row[d] = 0;
        continue;
      }
      const int64_t slot =
          int64_t{table[j / p.keys_per_block]} * p.keys_per_block +
          j % p.keys_per_block;
      if (a.aligned) {
        for (int32_t d = 4 * lane; d < dim; d += 4 * kWarpSize) {
          *reinterpret_cast<float4*>(row + d) =
              LoadElements4(a.keys, a.dtype, slot * p.head_dim + d);
        }
      } else {
        for (int32_t d = lane; d < dim; d += kWarpSize) {
          row[d] = d < p.head_dim
                       ? LoadElement(a.keys, a.dtype, slot * p.head_dim + d)
                       : 0;
        }
      }
    }
    __syncthreads();
    const float* key = s.keys + lane * stride;
    float sum = 0;
    for (int32_t h = warp; h < p.num_heads; h += kWarps) {
      const float* query = s.q + h * dim;
      float dot = 0;
      for (int32_t d = 0; d < dim; d += 4) {
        const float4 k = *reinterpret_cast<const float4*>(key + d);
        const float4 x = *reinterpret_cast<const float4*>(query + d);
        dot =
            fmaf(x.x, k.x, fmaf(x.y, k.y, fmaf(x.z, k.z, fmaf(x.w, k.w, dot))));
      }
      sum = fmaf(s.weights[h], fmaxf(dot, 0.0f), sum);
    }
    s.partial[threadIdx.x] = sum;
    __syncthreads();
    if (warp == 0 && first + lane < visible) {
      float score = 0;
      for (int w = 0; w < kWarps; ++w) {
        score += s.partial[w * kWarpSize + lane];
      }
      order[first + lane] = Ordered(score);
    }
  }
  __syncthreads();
}

// The k-th largest of order[0, n), and how many of its equals are among the k.
__device__ uint32_t KthLargest(const SelectShared& s, const uint32_t* order,
                               int32_t n, int32_t k, int32_t* equals) {
  uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int32_t d = threadIdx.x; d < kDigits; d += blockDim.x) s.counts[d] = 0;
    __syncthreads();
    for (int32_t j = threadIdx.x; j < n; j += blockDim.x) {
      const uint32_t value = order[j];
      // Of those that agree in the digits before.
      if (shift == 24 || value >> (shift + 8) == prefix >> (shift + 8)) {
        atomicAdd(&s.counts[value >> shift & 0xff], 1);
      }
    }
    __syncthreads();
    int32_t left = k;
    int digit = kDigits - 1;
    while (left > s.counts[digit]) left -= s.counts[digit--];
    prefix |= static_cast<uint32_t>(digit) << shift;
    k = left;
    __syncthreads();
  }
  *equals = k;
  return prefix;
}

// Writes the slots of all keys above `least` and of the first `equals` that are
// it, in rising order.
__device__ void WriteChosen(const SelectArgs& a, const SelectShared& s,
                            const uint32_t* order, const int32_t* table,
                            int32_t n, uint32_t least, int32_t equals,
                            int32_t* slots) {
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const auto num_threads = static_cast<int32_t>(blockDim.x);
  const unsigned lower_lanes = (1u << lane) - 1;
  const int32_t per_block = a.p.keys_per_block;
  int32_t above = 0;  // before these keys
  int32_t equal = 0;
  for (int32_t first = 0; first < n; first += num_threads) {
    const int32_t j = first + static_cast<int32_t>(threadIdx.x);
    const uint32_t value = j < n ? order[j] : 0;
    const bool is_above = j < n && value > least;
    const bool is_equal = j < n && value == least;
    const unsigned above_lanes = __ballot_sync(kAllLanes, is_above);
    const unsigned equal_lanes = __ballot_sync(kAllLanes, is_equal);
    if (lane == 0) {
      s.totals[warp] = __popc(above_lanes);
      s.totals[kMostWarps + warp] = __popc(equal_lanes);
    }
    __syncthreads();
    int32_t my_above = above + __popc(above_lanes & lower_lanes);
    int32_t my_equal = equal + __popc(equal_lanes & lower_lanes);
    for (int w = 0; w < num_threads / kWarpSize; ++w) {
      if (w < warp) {
        my_above += s.totals[w];
        my_equal += s.totals[kMostWarps + w];
      }
      above += s.totals[w];
      equal += s.totals[kMostWarps + w];
    }
    if (is_above || (is_equal && my_equal < equals)) {
      const int32_t place = my_above + (my_equal < equals ? my_equal : equals);
      slots[place] = table[j / per_block] * per_block + j % per_block;
    }
    __syncthreads();
  }
}

// Chooses among scored keys, or all if there are no more than top_k.
__device__ void Choose(const SelectArgs& a, const SelectShared& s,
                       int64_t token, const int32_t* table,
                       const uint32_t* order) {
  const KeySelectParams& p = a.p;
  const int32_t visible = p.num_visible[token];
  int32_t* slots = p.slots + token * p.top_k;
  if (visible <= p.top_k) {
    for (int32_t j = threadIdx.x; j < visible; j += blockDim.x) {
      slots[j] =
          table[j / p.keys_per_block] * p.keys_per_block + j % p.keys_per_block;
    }
  } else {
    int32_t equals;
    const uint32_t least = KthLargest(s, order, visible, p.top_k, &equals);
    WriteChosen(a, s, order, table, visible, least, equals, slots);
  }
  if (threadIdx.x == 0) {
    p.num_selected[token] = visible < p.top_k ? visible : p.top_k;
  }
}

__global__ __launch_bounds__(kThreads) void KeySelectKernel(
    const __grid_constant__ SelectArgs a) {
  const KeySelectParams& p = a.p;
  if (a.IsShared()) return;
  const SelectShared s = Divide(p);
  uint32_t* order = a.order + blockIdx.x * a.max_keys;
  for (int64_t item = blockIdx.x;; item += gridDim.x) {
    const SequenceTile place = a.tiles.Find(item);
    if (place.seq < 0) return;
    const int64_t token = place.first_token + place.tile;
    const int32_t visible = p.num_visible[token];
    const int32_t* table = p.block_tables + int64_t{place.seq} * p.max_blocks;
    if (visible > p.top_k) ScoreKeys(a, s, token, table, 0, visible, order);
    Choose(a, s, token, table, order);
    __syncthreads();
  }
}

// Of a decode step, whose token s is that of sequence s.
__global__ __launch_bounds__(kThreads) void ScoreSegmentsKernel(
    const __grid_constant__ SelectArgs a) {
  const KeySelectParams& p = a.p;
  if (!a.IsShared()) return;
  const SelectShared s = Divide(p);
  const int64_t segments = (a.max_keys + kSegmentKeys - 1) / kSegmentKeys;
  for (int64_t item = blockIdx.x; item < p.num_seqs * segments;
       item += gridDim.x) {
    const int64_t seq = item / segments;
    const auto begin = static_cast<int32_t>(item % segments * kSegmentKeys);
    const int32_t visible = p.num_visible[seq];
    if (visible <= p.top_k || begin >= visible) continue;
    const int32_t end =
        begin + kSegmentKeys < visible ? begin + kSegmentKeys : visible;
    ScoreKeys(a, s, seq, p.block_tables + seq * p.max_blocks, begin, end,
              a.order + seq * a.max_keys);
  }
}

// Grid: sequences.
__global__ __launch_bounds__(kChoosingThreads) void ChooseKernel(
    const __grid_constant__ SelectArgs a) {
  if (!a.IsShared()) return;
  const int64_t seq = blockIdx.x;
  Choose(a, Divide(a.p), seq, a.p.block_tables + seq * a.p.max_blocks,
         a.order + seq * a.max_keys);
}

}  // namespace

void KeySelect(LaunchContext& context, const KeySelectParams& p) {
  if (p.num_seqs == 0) return;
  SelectArgs a;
  a.p = p;
  a.keys = p.keys.data;
  a.dtype = p.keys.dtype;
  a.aligned =
      p.head_dim % 4 == 0 &&
      reinterpret_cast<uintptr_t>(a.keys) % (4 * ElementBytes(a.dtype)) == 0;
  a.tiles = {p.cu_seqlens_q, p.num_seqs, 1, 1};
  a.max_keys = int64_t{p.max_blocks} * p.keys_per_block;
  const int64_t blocks = context.num_multiprocessors();
  constexpr auto kScore = static_cast<int64_t>(sizeof(uint32_t));
  a.may_share = p.num_seqs < 2 * blocks &&
                p.num_seqs * a.max_keys * kScore <= kMostSharedScores;
  const int64_t rows =
      a.may_share ? std::max<int64_t>(blocks, p.num_seqs) : blocks;
  a.order = static_cast<uint32_t*>(context.Scratch(rows * a.max_keys * kScore));
  if (a.order == nullptr) return;
  const dim3 grid(static_cast<unsigned>(blocks));
  const size_t shared = SharedFloats(p) * sizeof(float);
  context.Launch(KeySelectKernel, grid, kThreads, shared, a);
  if (!a.may_share) return;
  context.Launch(ScoreSegmentsKernel, dim3(2 * grid.x), kThreads, shared, a);
  context.Launch(ChooseKernel, dim3(static_cast<unsigned>(p.num_seqs)),
                 kChoosingThreads, shared, a);
}

}  // namespace shoal::cuda
