// Choosing tokens from rows of logits, a thread block a row. What is kept of
// the order (kernels/sampling.h) is told by the key of its last token and by
// how many of those with that key are: the order need not be made, and all sums
// are of integers, so that threads may add in any order.
#include "kernels/check.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/sample.h"

namespace shoal::cuda {
namespace {

using Mass = unsigned long long;  // NOLINT(runtime/int): what atomicAdd takes

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kBins = 2048;
constexpr int kBinsOfThread = kBins / kThreads;
// Tokens of one bin that are put in order by comparing all with all.
constexpr int kListed = 1024;
static_assert(kListed <= kThreads);
// Bins of level 0 are this many to a unit of the exponent: with 2,047 of them
// those left out have no weight (2^40 < e^28).
constexpr float kBinsOfUnit = 73.0f;
constexpr int kLevels = 4;

// The bits of (max - logit), which order as the numbers do.
constexpr uint32_t kEveryKey = 0xffffffffu;

struct Kept {
  uint32_t key = kEveryKey;  // those below all, of those with this key
  Mass equals = 0;           // the first so many
};

struct Row {
  const float* logits;
  int64_t width;
  float max;
  float inverse;  // of the temperature
};

struct Shared {
  Mass bins[kBins];
  uint32_t keys[kListed];
  Mass amounts[kListed];
  Mass sums[kWarps];
  Mass before;  // of the bin found
  int bin;
  int num_listed;
  uint32_t found_key;
  Mass found_equals;
};

__device__ __forceinline__ uint32_t KeyOf(const Row& row, int64_t i) {
  return __float_as_uint(row.max - row.logits[i]);
}

__device__ __forceinline__ Mass WeightOf(const Row& row, uint32_t key) {
  const float exponent = __uint_as_float(key) * row.inverse;
  return static_cast<Mass>(expf(-exponent) * kFullWeight);
}

// What a token counts for: itself, or its weight.
template <bool kByWeight>
__device__ __forceinline__ Mass AmountOf(const Row& row, uint32_t key) {
  return kByWeight ? WeightOf(row, key) : 1;
}

// Growing with the key; equal at all levels means equal.
__device__ __forceinline__ int BinOf(const Row& row, uint32_t key, int level) {
  switch (level) {
    case 0: {
      const float at = __uint_as_float(key) * row.inverse * kBinsOfUnit;
      return at < kBins - 1 ? static_cast<int>(at) : kBins - 1;
    }
    case 1:
      return static_cast<int>(key >> 20 & 2047u);
    case 2:
      return static_cast<int>(key >> 10 & 1023u);
    default:
      return static_cast<int>(key & 1023u);
  }
}

// Bins chosen so far, one a level.
struct Path {
  int bins[kLevels];
  int levels = 0;

  __device__ __forceinline__ bool Has(const Row& row, uint32_t key) const {
    for (int level = 0; level < levels; ++level) {
      if (BinOf(row, key, level) != bins[level]) return false;
    }
    return true;
  }
};

// The sum over the lanes up to this one.
__device__ __forceinline__ Mass SumToLane(Mass x) {
  const int lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (int delta = 1; delta < kWarpSize; delta *= 2) {
    const Mass below = __shfl_up_sync(kAllLanes, x, delta);
    if (lane >= delta) x += below;
  }
  return x;
}

// The sum over the threads before this one, and over all of them.
__device__ __forceinline__ Mass SumBefore(Mass x, Shared& shared, Mass* total) {
  const int warp = threadIdx.x / kWarpSize;
  const Mass to_lane = SumToLane(x);
  if (threadIdx.x % kWarpSize == kWarpSize - 1) shared.sums[warp] = to_lane;
  __syncthreads();
  Mass before = to_lane - x;
  Mass sum = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp) before += sum;
    sum += shared.sums[w];
  }
  __syncthreads();
  *total = sum;
  return before;
}

// Calls body(key, amount) for this thread's part of the tokens in the path's
// bins that are kept for their keys and count for something.
template <bool kByWeight, typename Body>
__device__ __forceinline__ void ForAmounts(const Row& row, const Kept& kept,
                                           const Path& path, const Body& body) {
  for (int64_t i = threadIdx.x; i < row.width; i += kThreads) {
    const uint32_t key = KeyOf(row, i);
    if (key >= kept.key || !path.Has(row, key)) continue;
    const Mass amount = AmountOf<kByWeight>(row, key);
    if (amount > 0) body(key, amount);
  }
}

// Fills the bins of the path's next level with the amounts of those kept.
template <bool kByWeight>
__device__ void FillBins(const Row& row, const Kept& kept, const Path& path,
                         Shared& shared) {
  for (int i = threadIdx.x; i < kBins; i += kThreads) shared.bins[i] = 0;
  __syncthreads();
  ForAmounts<kByWeight>(row, kept, path, [&](uint32_t key, Mass amount) {
    atomicAdd(&shared.bins[BinOf(row, key, path.levels)], amount);
  });
  if (threadIdx.x == 0 && kept.equals > 0 && path.Has(row, kept.key)) {
    atomicAdd(&shared.bins[BinOf(row, kept.key, path.levels)],
              kept.equals * AmountOf<kByWeight>(row, kept.key));
  }
  __syncthreads();
}

// The bin in which the sum over bins reaches `wanted`, and the sum before it.
// False if it is never reached.
__device__ bool FindBin(Mass wanted, Shared& shared) {
  const int first = threadIdx.x * kBinsOfThread;
  Mass own = 0;
  for (int b = 0; b < kBinsOfThread; ++b) own += shared.bins[first + b];
  Mass total = 0;
  Mass before = SumBefore(own, shared, &total);
  if (total < wanted) return false;
  for (int b = 0; b < kBinsOfThread; ++b) {
    const Mass after = before + shared.bins[first + b];
    if (before < wanted && wanted <= after) {
      shared.bin = first + b;
      shared.before = before;
    }
    before = after;
  }
  __syncthreads();
  return true;
}

// Where the amounts of those in the path's bins, by rising key, reach `wanted`.
// False, and nothing done, if there are more than can be listed.
template <bool kByWeight>
__device__ bool FindInList(const Row& row, const Kept& kept, const Path& path,
                           Mass wanted, Shared& shared) {
  if (threadIdx.x == 0) shared.num_listed = 0;
  __syncthreads();
  ForAmounts<kByWeight>(row, kept, path, [&](uint32_t key, Mass amount) {
    const int at = atomicAdd(&shared.num_listed, 1);
    if (at >= kListed) return;
    shared.keys[at] = key;
    shared.amounts[at] = amount;
  });
  __syncthreads();
  const int num_listed = shared.num_listed;
  if (num_listed > kListed) return false;
  const int own = threadIdx.x;
  if (own < num_listed) {
    Mass before = 0, equal = 0;
    for (int i = 0; i < num_listed; ++i) {
      if (shared.keys[i] < shared.keys[own]) before += shared.amounts[i];
      if (shared.keys[i] == shared.keys[own]) equal += shared.amounts[i];
    }
    if (before < wanted &&
        wanted <= before + equal) {  // its equals find as much
      const Mass amount = shared.amounts[own];
      shared.found_key = shared.keys[own];
      shared.found_equals = (wanted - before + amount - 1) / amount;
    }
  }
  if (own == 0 && kept.equals > 0) {
    Mass before = 0;
    for (int i = 0; i < num_listed; ++i) before += shared.amounts[i];
    if (before < wanted) {  // the last key of those kept, which is not listed
      const Mass amount = AmountOf<kByWeight>(row, kept.key);
      shared.found_key = kept.key;
      shared.found_equals = (wanted - before + amount - 1) / amount;
    }
  }
  __syncthreads();
  return true;
}

// Of those kept the fewest of the order whose amounts reach `wanted`.
template <bool kByWeight>
__device__ Kept KeepFewest(const Row& row, const Kept& kept, Mass wanted,
                           Shared& shared) {
  Path path;
  for (int level = 0; level < kLevels; ++level) {
    FillBins<kByWeight>(row, kept, path, shared);
    if (!FindBin(wanted, shared)) return kept;
    // What has no weight is never drawn.
    if (level == 0 && shared.bin == kBins - 1) return kept;
    path.bins[path.levels++] = shared.bin;
    wanted -= shared.before;
    __syncthreads();
    if (FindInList<kByWeight>(row, kept, path, wanted, shared)) {
      const Kept found = {shared.found_key, shared.found_equals};
      __syncthreads();
      return found;
    }
  }
  // All in the bin have the same key.
  const uint32_t key = static_cast<uint32_t>(path.bins[1]) << 20 |
                       static_cast<uint32_t>(path.bins[2]) << 10 |
                       static_cast<uint32_t>(path.bins[3]);
  const Mass amount = AmountOf<kByWeight>(row, key);
  return {key, (wanted + amount - 1) / amount};
}

// A warp's part of the row, for which ids rise from warp to warp.
struct Part {
  int64_t begin, end;
};
__device__ __forceinline__ Part PartOfWarp(int64_t width) {
  const int64_t size = (width + kThreads - 1) / kThreads * kWarpSize;
  const int64_t begin = threadIdx.x / kWarpSize * size;
  const int64_t end = begin + size;
  return {begin < width ? begin : width, end < width ? end : width};
}

// The masses of the tokens from `first` on, one a lane: 0 for those not kept.
// `equals`: of those kept, before `first`; the same in all lanes.
__device__ __forceinline__ Mass KeptMass(const Row& row, const Kept& kept,
                                         Mass least, int64_t first, int64_t end,
                                         Mass* equals) {
  const int64_t i = first + threadIdx.x % kWarpSize;
  const bool inside = i < end;
  const uint32_t key = inside ? KeyOf(row, i) : kEveryKey;
  bool is_kept = inside && key < kept.key;
  if (kept.equals > 0) {
    const bool equal = inside && key == kept.key;
    const unsigned lanes = __ballot_sync(kAllLanes, equal);
    const unsigned below = (1u << threadIdx.x % kWarpSize) - 1;
    is_kept |= equal && *equals + __popc(lanes & below) < kept.equals;
    *equals += __popc(lanes);
  }
  const Mass weight = is_kept ? WeightOf(row, key) : 0;
  return weight >= least ? weight : 0;
}

// The token drawn of those kept; -1 for threads that have not found it.
__device__ int32_t DrawKept(const Row& row, const Kept& kept, Mass least,
                            Mass random, Shared& shared) {
  const int lane = threadIdx.x % kWarpSize;
  const Part part = PartOfWarp(row.width);
  Mass equals_before = 0;
  if (kept.equals > 0) {
    Mass equals = 0;
    for (int64_t i = part.begin + lane; i < part.end; i += kWarpSize) {
      equals += KeyOf(row, i) == kept.key ? 1 : 0;
    }
    Mass total = 0;
    const Mass before = SumBefore(equals, shared, &total);
    equals_before = __shfl_sync(kAllLanes, before, 0);
  }
  Mass mass = 0;
  Mass equals = equals_before;
  for (int64_t i = part.begin; i < part.end; i += kWarpSize) {
    mass += KeptMass(row, kept, least, i, part.end, &equals);
  }
  Mass total = 0;
  const Mass before = SumBefore(mass, shared, &total);
  const Mass wanted = __umul64hi(random, total);
  // The warp's own, which all its lanes must agree on.
  Mass sum = __shfl_sync(kAllLanes, before, 0);
  const Mass after = __shfl_sync(kAllLanes, before + mass, kWarpSize - 1);
  if (wanted < sum || wanted >= after) return -1;
  equals = equals_before;
  for (int64_t i = part.begin; i < part.end; i += kWarpSize) {
    const Mass own = KeptMass(row, kept, least, i, part.end, &equals);
    const Mass to_lane = sum + SumToLane(own);
    sum = __shfl_sync(kAllLanes, to_lane, kWarpSize - 1);
    if (wanted >= sum) continue;
    const bool found = wanted >= to_lane - own && wanted < to_lane;
    return found ? static_cast<int32_t>(i + lane) : -1;
  }
  return -1;
}

// The better of two: the larger value, the lower index of equals.
struct Best {
  float value = kMinusInfinity;
  int32_t index = 0x7fffffff;

  __device__ __forceinline__ void Join(float other, int32_t other_index) {
    if (other > value || (other == value && other_index < index)) {
      value = other;
      index = other_index;
    }
  }
};

// As SampleParams::out of a greedy row; every thread gets it.
__device__ Best LargestOf(const float* row, int64_t width) {
  __shared__ float values[kWarps];
  __shared__ int32_t indices[kWarps];
  __shared__ int32_t nans;
  if (threadIdx.x == 0) nans = 0;
  __syncthreads();
  Best best;
  bool has_nan = false;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    const float value = row[i];
    has_nan |= value != value;
    best.Join(value, static_cast<int32_t>(i));
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const float value = __shfl_xor_sync(kAllLanes, best.value, mask);
    const int32_t index = __shfl_xor_sync(kAllLanes, best.index, mask);
    best.Join(value, index);
  }
  const bool any_nan = __any_sync(kAllLanes, has_nan) != 0;
  if (threadIdx.x % kWarpSize == 0) {
    values[threadIdx.x / kWarpSize] = best.value;
    indices[threadIdx.x / kWarpSize] = best.index;
    if (any_nan) nans = 1;
  }
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) best.Join(values[w], indices[w]);
  const bool finite = fabsf(best.value) < -kMinusInfinity;
  if (nans != 0 || !finite) best.index = -1;
  return best;
}

// Grid: rows.
__global__ __launch_bounds__(kThreads) void SampleKernel(SampleParams p) {
  __shared__ Shared shared;
  Row row;
  row.logits = p.logits + blockIdx.x * p.width;
  row.width = p.width;
  const Best best = LargestOf(row.logits, p.width);
  TokenDraw draw;
  if (p.draws != nullptr) draw = p.draws[blockIdx.x];
  if (best.index < 0 || draw.temperature <= 0) {
    if (threadIdx.x == 0) p.out[blockIdx.x] = best.index;
    return;
  }
  row.max = best.value;
  row.inverse = InverseTemperature(draw.temperature);
  Kept kept;
  if (draw.top_k > 0 && draw.top_k < p.width) {
    kept = KeepFewest<false>(row, kept, static_cast<Mass>(draw.top_k), shared);
  }
  if (draw.top_p < 1) {
    Mass own = threadIdx.x == 0 && kept.equals > 0
                   ? kept.equals * WeightOf(row, kept.key)
                   : 0;
    for (int64_t i = threadIdx.x; i < p.width; i += kThreads) {
      const uint32_t key = KeyOf(row, i);
      if (key < kept.key) own += WeightOf(row, key);
    }
    Mass total = 0;
    SumBefore(own, shared, &total);
    kept =
        KeepFewest<true>(row, kept, NucleusWeight(draw.top_p, total), shared);
  }
  const auto least = static_cast<Mass>(draw.min_p * kFullWeight);
  const int32_t token = DrawKept(row, kept, least, draw.random, shared);
  if (token >= 0) p.out[blockIdx.x] = token;
}

}  // namespace

void Sample(LaunchContext& context, const SampleParams& p) {
  if (p.num_rows == 0) return;
  context.Launch(SampleKernel, dim3(static_cast<unsigned>(p.num_rows)),
                 kThreads, 0, p);
}

}  // namespace shoal::cuda
