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
template <DType kType, int kRowTiles, bool kWhole>
__device__ __forceinline__ void MultiplyFewRows(const ProductSet& set, int part,
                                                int32_t tile) {
  constexpr int kFeatureTiles = kFewRowsFeatures / 16;
  constexpr int kValues = kFeatureTiles * kRowTiles * 4;
  constexpr bool kBlocks = kHasBlocks32<kType>;
  // Steps whose weights, and whose inputs, are under way: as many as there are
  // registers for.
  constexpr int kAhead =
      kBlocks || (kRowTiles == 1 && !kHasLargeBlocks<kType>) ? 4 : 2;
  constexpr bool kLarge = kType == DType::kQ5_K || kType == DType::kQ6_K;
  constexpr int kInputsAhead = kRowTiles == 1 && !kLarge ? kAhead : 2;
  __shared__ float partial[kSegments][kValues][kWarpSize];
  const ProductArgs& args = set.parts[part];
  const GroupedProduct& p = args.p;
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const FewGroupRows rows(p, set.IsBeside() ? 0 : blockIdx.y);
  if (rows.count == 0) return;
  // Where a part gates the next, a tile of features is either's.
  const int64_t next_tile = p.gates ? 0 : 16;
  const int64_t first_feature =
      int64_t{tile} * (p.gates ? 1 : kFeatureTiles) * 16;
  if (first_feature >= p.shape.out_features) return;  // others have more tiles
  WeightRow<kType> features[kFeatureTiles][2];
#pragma unroll
  for (int m = 0; m < kFeatureTiles; ++m) {
    const GroupedProduct& source = p.gates ? set.parts[part + m].p : p;
    const WeightPointers weight =
        source.groups != nullptr ? source.groups[rows.group] : source.one;
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
        if (!kBlocks && base + s >= end) continue;
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
      const int32_t first_k = BlockAt(base, unit);
#pragma unroll
      for (int begin = 0; begin < kAhead; begin += kInputsAhead) {
        float x[kInputsAhead][kRowTiles][kUnit];
#pragma unroll
        for (int s = begin; s < begin + kInputsAhead; ++s) {
          if (!kBlocks && base + s >= end) continue;
#pragma unroll
          for (int j = 0; j < kRowTiles; ++j) {
            LoadInput8<kWhole>(in[j], UnitAt<kType>(base + s, unit), width,
                               args.in_aligned, x[s - begin][j]);
          }
        }
#pragma unroll
        for (int s = begin; s < begin + kInputsAhead; ++s) {
          if (!kBlocks && base + s >= end) continue;
          uint4 b[kRowTiles];
#pragma unroll
          for (int j = 0; j < kRowTiles; ++j) b[j] = Pack8(x[s - begin][j]);
#pragma unroll
          for (int m = 0; m < kFeatureTiles; ++m) {
            uint4 rows_of_tile[2];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              if constexpr (kBlocks) {
                const WeightBlock<kType>& block = weights[0][m][half];
                rows_of_tile[half] =
                    DecodeBF16(block.Unit(s), first_k + block.Offset(s));
              } else {
                rows_of_tile[half] = DecodeBF16(weights[s][m][half],
                                                UnitAt<kType>(base + s, unit));
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
      const int64_t row = first + v / 4 % kRowTiles * 8 + lane % 4 * 2 + v % 2;
      if (p.gates) {
        rows.Write(p, row, feature, sum_of(v), &set.parts[part + 1].p,
                   sum_of(v + kOther));
      } else {
        rows.Write(p, row, feature, sum_of(v));
      }
    }
    __syncthreads();
  }
}

// Grid: tiles of rows, groups, tiles of features.
template <DType kType, int kRowTiles, bool kWhole>
__global__ __launch_bounds__(
    kSegments* kWarpSize,
    kRowTiles == 1
        ? 2
        : 1) void FewRowsKernel(const __grid_constant__ ProductSet set) {
  int32_t tile;
  int part = set.Part(&tile);
  const GroupedProduct& p = set.parts[part].p;
  if (set.IsBeside()) {
    part = set.beside;
    tile = static_cast<int32_t>(blockIdx.z);
  }
  MultiplyFewRows<kType, kRowTiles, kWhole>(set, part, tile);
  if (p.sum.out == nullptr) return;
  if (!LastBlock(set.counters + blockIdx.z, gridDim.x * gridDim.y)) return;
  for (int64_t i = threadIdx.x; i < p.sum.num_tokens * kFewRowsFeatures;
       i += kSegments * kWarpSize) {
    const int64_t feature =
        int64_t{tile} * kFewRowsFeatures + i % kFewRowsFeatures;
    if (feature < p.shape.out_features) {
      AddChoices(p, i / kFewRowsFeatures, feature);
    }
  }
}

}  // namespace shoal::cuda
