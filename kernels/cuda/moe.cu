// The experts' grouped products; see kernels/moe.h.
#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/moe.h"

namespace shoal::cuda {
namespace {

constexpr int kSortThreads = 512;

// Choices sorted by expert; device memory.
struct SortedChoices {
  RowTile* tiles;          // [num_tiles]; those behind the last have no rows
  int32_t* num_rows;       // [1]
  int32_t* choices;        // [rows], token · top_k + k
  int32_t* row_of_choice;  // [num_tokens · top_k], -1: none
};

// The sum of `x` over lanes up to and with this one.
__device__ int32_t WarpSumThrough(int32_t x, int lane) {
#pragma unroll
  for (int delta = 1; delta < kWarpSize; delta *= 2) {
    const int32_t other = __shfl_up_sync(kAllLanes, x, delta);
    if (lane >= delta) x += other;
  }
  return x;
}

// One thread block. The order of an expert's rows changes nothing: rows are
// computed by themselves and added up by token. Experts without weights lie
// elsewhere.
__global__ __launch_bounds__(kSortThreads) void SortChoicesKernel(
    const int32_t* expert_ids, int32_t num_choices, int32_t num_experts,
    const WeightPointers* weights, int32_t tile_rows, int32_t num_tiles,
    SortedChoices sorted) {
  auto* counts = reinterpret_cast<int32_t*>(DynamicShared());
  int32_t* tiles_used = counts + num_experts;
  for (int32_t e = threadIdx.x; e < num_experts; e += kSortThreads) {
    counts[e] = 0;
  }
  __syncthreads();
  for (int32_t c = threadIdx.x; c < num_choices; c += kSortThreads) {
    const int32_t e = expert_ids[c];
    if (e >= 0 && weights[e].data != nullptr) atomicAdd(&counts[e], 1);
  }
  __syncthreads();
  if (threadIdx.x < kWarpSize) {  // a warp adds up, 32 experts at a time
    const int lane = static_cast<int>(threadIdx.x);
    int32_t rows = 0;
    int32_t used = 0;
    for (int32_t first = 0; first < num_experts; first += kWarpSize) {
      const int32_t e = first + lane;
      const int32_t count = e < num_experts ? counts[e] : 0;
      const int32_t tiles = (count + tile_rows - 1) / tile_rows;
      const int32_t rows_through = WarpSumThrough(count, lane);
      const int32_t tiles_through = WarpSumThrough(tiles, lane);
      const int32_t row = rows + rows_through - count;
      RowTile* out = sorted.tiles + used + tiles_through - tiles;
      for (int32_t at = 0; at < count; at += tile_rows) {
        const int32_t left = count - at;
        *out++ = {e, row + at, left < tile_rows ? left : tile_rows, 0};
      }
      if (e < num_experts) counts[e] = row;  // from here on its next free row
      rows += __shfl_sync(kAllLanes, rows_through, kWarpSize - 1);
      used += __shfl_sync(kAllLanes, tiles_through, kWarpSize - 1);
    }
    if (lane == 0) {
      *sorted.num_rows = rows;
      *tiles_used = used;
    }
  }
  __syncthreads();
  for (int32_t t = *tiles_used + static_cast<int32_t>(threadIdx.x);
       t < num_tiles; t += kSortThreads) {
    sorted.tiles[t] = {};
  }
  for (int32_t c = threadIdx.x; c < num_choices; c += kSortThreads) {
    int32_t row = -1;
    const int32_t e = expert_ids[c];
    if (e >= 0 && weights[e].data != nullptr) {
      row = atomicAdd(&counts[e], 1);
      sorted.choices[row] = c;
    }
    sorted.row_of_choice[c] = row;
  }
}

// Grid: tokens, tiles of the row.
__global__ void AddExpertsKernel(const __grid_constant__ GroupedProduct p) {
  const int64_t i = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (i < p.shape.out_features) AddChoices(p, blockIdx.x, i);
}

int64_t RoundUp(int64_t n) { return (n + 63) / 64 * 64; }

}  // namespace

void MoeExperts(LaunchContext& context, const MoeExpertsParams& p,
                const ExpertProducts& experts,
                std::span<const GroupedProduct> shared) {
  const auto& [gate, up, down] = experts;
  const int64_t choices = p.num_tokens * p.top_k;
  if (choices == 0) return;
  const auto num_experts = static_cast<int64_t>(p.experts.size());
  const int64_t hidden = p.hidden_size;
  const int64_t inner = p.intermediate_size;
  const int64_t num_groups = std::min(num_experts, choices);
  const int32_t tile_rows = RowsOfTile(choices, num_groups, gate.shape.fast);
  // A few choices are found by who works on them, which saves a launch.
  const bool listed = choices <= kMostListed && tile_rows == kTokenTile;
  // A whole tile has that many rows, and a group one that is none at most.
  const int64_t num_tiles = choices / tile_rows + num_groups;
  // Scratch: the sorted choices, gate and up, results; each on a 256-byte edge.
  const int64_t ints =
      listed ? 0 : RoundUp(4 * num_tiles + 1) + 2 * RoundUp(choices);
  const int64_t floats = 2 * RoundUp(choices * inner) +
                         RoundUp(choices * hidden) + p.num_tokens * hidden;
  auto* scratch = static_cast<int32_t*>(context.Scratch(4 * (ints + floats)));
  if (scratch == nullptr) return;
  auto* gates = reinterpret_cast<float*>(scratch + ints);
  float* ups = gates + RoundUp(choices * inner);
  float* results = ups + RoundUp(choices * inner);
  float* shared_results = results + RoundUp(choices * hidden);

  GroupedProduct product;
  product.num_groups = num_groups;
  product.num_rows = choices;
  const int32_t* num_rows = nullptr;
  if (listed) {
    product.row_groups = p.expert_ids;
  } else {
    SortedChoices sorted;
    sorted.tiles = reinterpret_cast<RowTile*>(scratch);
    sorted.num_rows = scratch + 4 * num_tiles;
    sorted.choices = scratch + RoundUp(4 * num_tiles + 1);
    sorted.row_of_choice = sorted.choices + RoundUp(choices);
    context.Launch(SortChoicesKernel, dim3(1), kSortThreads,
                   (num_experts + 1) * sizeof(int32_t), p.expert_ids,
                   static_cast<int32_t>(choices),
                   static_cast<int32_t>(num_experts), gate.pointers, tile_rows,
                   static_cast<int32_t>(num_tiles), sorted);
    product.tiles = sorted.tiles;
    product.num_tiles = num_tiles;
    product.source_rows = sorted.choices;
    product.sum.row_of_choice = sorted.row_of_choice;
    num_rows = sorted.num_rows;
  }
  product.source_divisor = p.top_k;
  const auto with = [&](const ExpertMatrices& matrices, const float* in,
                        float* out) {
    GroupedProduct result = product;
    result.shape = matrices.shape;
    result.groups = matrices.pointers;
    result.in = in;
    result.in_stride = matrices.shape.in_features;
    result.out = out;
    result.out_stride = matrices.shape.out_features;
    return result;
  };
  const GroupedProduct gate_up[] = {with(gate, p.in, gates),
                                    with(up, p.in, ups)};
  GroupedProduct last = with(down, gates, results);
  last.source_rows = nullptr;
  last.source_divisor = 1;
  last.sum.weights = p.expert_weights;
  last.sum.num_tokens = p.num_tokens;
  last.sum.top_k = p.top_k;
  last.sum.out = p.out;
  // In a decode step the shared experts keep busy what the chosen ones leave.
  if (listed && !shared.empty() && SumsChoices(last) &&
      CanRunBeside(gate_up[0], gate_up[1]) &&
      CanRunBeside(gate_up[0], shared[0]) &&
      CanRunBeside(gate_up[1], shared[1]) && CanRunBeside(last, shared[2])) {
    RunGatedBeside(context, gate_up, shared.first<2>(), p.swiglu_limit);
    GroupedProduct beside = shared[2];
    beside.out = shared_results;
    beside.accumulate = false;
    last.sum.last = shared_results;
    RunBeside(context, last, beside);
    return;
  }
  RunGatedProducts(context, gate_up[0], gate_up[1], p.swiglu_limit, num_rows);
  RunProduct(context, last);
  if (!SumsChoices(last)) {
    constexpr unsigned kThreads = 256;
    context.Launch(
        AddExpertsKernel,
        dim3(static_cast<unsigned>(p.num_tokens),
             static_cast<unsigned>((hidden + kThreads - 1) / kThreads)),
        kThreads, 0, last);
  }
  if (shared.empty()) return;
  RunGatedProducts(context, shared[0], shared[1], p.swiglu_limit, nullptr);
  RunProduct(context, shared[2]);
}

}  // namespace shoal::cuda
