// Products of few rows on the tensor cores; see linear_tensor.cuh.
#pragma once

#include <type_traits>

#include "kernels/cuda/decode_blocks.cuh"
#include "kernels/cuda/linear_steps.cuh"

namespace shoal::cuda {

// Few rows: a thread block computes 32 features of 8 · kRowTiles rows at a
// time, each of its warps a segment, so that every weight goes once from memory
// to the register it is multiplied in. Of a step a lane holds eight neighbours,
// four for each tile, of weights and rows alike. kWhole: the width is whole
// steps, rows of weights and inputs are aligned.
// Grid: tiles of rows, groups, tiles of features.
template <DType kType, int kRowTiles, bool kWhole>
__global__ __launch_bounds__(
    kSegments* kWarpSize,
    kRowTiles == 1
        ? 2
        : 1) void FewRowsKernel(const __grid_constant__ ProductSet set) {
  constexpr int kFeatureTiles = 2;
  constexpr int kValues = kFeatureTiles * kRowTiles * 4;
  constexpr bool kBlocks = kHasBlocks32<kType>;
  // Steps whose weights, and whose inputs, are under way.
  constexpr int kAhead = kBlocks || kRowTiles == 1 ? 4 : 2;
  constexpr int kInputsAhead = kRowTiles == 1 ? 4 : 2;
  __shared__ float partial[kSegments][kValues][kWarpSize];
  int32_t tile;
  const ProductArgs& args = set.parts[set.Part(&tile)];
  const GroupedProduct& p = args.p;
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const GroupRows rows(p, blockIdx.y);
  if (rows.count == 0) return;
  // Where the first part gates the second, a tile of features is either's.
  const int64_t next_tile = p.gates ? 0 : 16;
  const int64_t first_feature =
      int64_t{tile} * (p.gates ? 1 : kFeatureTiles) * 16;
  WeightRow<kType> features[kFeatureTiles][2];
#pragma unroll
  for (int m = 0; m < kFeatureTiles; ++m) {
    const GroupedProduct& part = p.gates ? set.parts[m].p : p;
    const WeightPointers weight =
        part.groups != nullptr ? part.groups[rows.group] : part.one;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      features[m][half] = FeatureRow<kType>(
          args, weight, first_feature + next_tile * m + 8 * half + lane / 4);
    }
  }
  const int64_t width = p.shape.in_features;
  const auto num_steps = static_cast<int32_t>(NumSteps<kType>(width));
  const auto segment = static_cast<int32_t>(SegmentSteps<kType>(num_steps));
  const int32_t end =
      (warp + 1) * segment < num_steps ? (warp + 1) * segment : num_steps;
  const int unit = lane % 4;

  for (int64_t first = int64_t{blockIdx.x} * kRowTiles * 8; first < rows.count;
       first += int64_t{gridDim.x} * kRowTiles * 8) {
    const float* in[kRowTiles];
#pragma unroll
    for (int j = 0; j < kRowTiles; ++j) {
      in[j] = p.in + rows.Source(p, first + 8 * j + lane / 4) * p.in_stride +
              rows.group * p.in_group_stride;
    }
    float sums[kFeatureTiles][kRowTiles][4] = {};
    for (int32_t base = warp * segment; base < end; base += kAhead) {
      std::conditional_t<kBlocks, WeightBlock<kType>, WeightUnit<kType>>
          weights[kBlocks ? 1 : kAhead][kFeatureTiles][2];
#pragma unroll
      for (int s = 0; s < (kBlocks ? 1 : kAhead); ++s) {
        if (base + s >= end) continue;
        const int32_t k = UnitAt<kType>(base + s, unit);
#pragma unroll
        for (int m = 0; m < kFeatureTiles; ++m) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            if constexpr (kBlocks) {
              weights[s][m][half].Fetch(
                  features[m][half].data,
                  static_cast<uint32_t>(kWhole || k < width ? k : width - 32) /
                      32);
            } else {
              weights[s][m][half] =
                  features[m][half].template Fetch<kWhole>(args.layout, k);
            }
          }
        }
      }
#pragma unroll
      for (int begin = 0; begin < kAhead; begin += kInputsAhead) {
        float x[kInputsAhead][kRowTiles][kUnit];
#pragma unroll
        for (int s = begin; s < begin + kInputsAhead; ++s) {
          if (base + s >= end) continue;
#pragma unroll
          for (int j = 0; j < kRowTiles; ++j) {
            LoadInput8<kWhole>(in[j], UnitAt<kType>(base + s, unit), width,
                               args.in_aligned, x[s - begin][j]);
          }
        }
#pragma unroll
        for (int s = begin; s < begin + kInputsAhead; ++s) {
          if (base + s >= end) continue;
          const int32_t k = UnitAt<kType>(base + s, unit);
          uint4 b[kRowTiles];
#pragma unroll
          for (int j = 0; j < kRowTiles; ++j) b[j] = Pack8(x[s - begin][j]);
#pragma unroll
          for (int m = 0; m < kFeatureTiles; ++m) {
            uint4 rows_of_tile[2];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              if constexpr (kBlocks) {
                rows_of_tile[half] = DecodeBF16(weights[0][m][half].Unit(s), k);
              } else {
                rows_of_tile[half] = DecodeBF16(weights[s][m][half], k);
              }
            }
            MultiplyStep(rows_of_tile[0], rows_of_tile[1], b, sums[m]);
          }
        }
      }
    }
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      partial[warp][v][lane] =
          sums[v / (4 * kRowTiles)][v / 4 % kRowTiles][v % 4];
    }
    __syncthreads();
    const auto sum_of = [&](int v) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kSegments; ++w) sum += partial[w][v][lane];
      return sum;
    };
    constexpr int kOther = 4 * kRowTiles;  // from a tile's values to the next's
    for (int v = warp; v < (p.gates ? kOther : kValues); v += kSegments) {
      const int64_t feature =
          first_feature + v / kOther * 16 + lane / 4 + (v % 4 >= 2 ? 8 : 0);
      const int32_t row = v / 4 % kRowTiles * 8 + lane % 4 * 2 + v % 2;
      const FeatureOut out(p, rows, first, feature);
      if (p.gates) {
        const FeatureOut up(set.parts[1].p, rows, first, feature);
        out.WriteGated(row, sum_of(v), sum_of(v + kOther) + up.bias,
                       p.gate_limit);
      } else {
        out.Write(row, sum_of(v));
      }
    }
    __syncthreads();
  }
}

}  // namespace shoal::cuda
