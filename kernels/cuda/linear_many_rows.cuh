// Products of many rows on the tensor cores; see linear_tensor.cuh.
#pragma once

#include "kernels/cuda/linear_steps.cuh"

namespace shoal::cuda {

// How a thread block of many rows gets its weights: copied as they are stored
// (bf16), fetched and decoded, or that with a look at the row's end.
enum class WeightPath : uint8_t { kCopied, kWhole, kAny };

template <int kRows>
struct ManyRowsShape {
  static constexpr int kFeatures = 128;
  static constexpr int kThreads = 2 * kRows;
  static constexpr int kStages = 3;  // of two steps each, in shared memory
  static constexpr int kSteps = 2 * kStages;
  static constexpr int kUnits = kStep / kUnit;  // of a row of a tile
  static constexpr int kWeightUnits = kFeatures * kUnits;
  static constexpr int kInputUnits = kRows * kUnits;
  static constexpr size_t kSharedBytes =
      kSteps * (kWeightUnits + kInputUnits) * sizeof(uint4);
};

// Many rows: a thread block computes 128 features of kRows rows, a warp 64 of
// 32. The inputs are rounded already (product.rounded). Steps lie in shared
// memory as bf16, in the order of the width: while one is multiplied the next
// ones are on their way. Grid: tiles of rows, groups, tiles of features: blocks
// that share weights run side by side.
template <DType kType, int kRows, WeightPath kPath>
__global__ __launch_bounds__(2 * kRows, 1) void ManyRowsKernel(
    const __grid_constant__ ProductSet set) {
  using Shape = ManyRowsShape<kRows>;
  constexpr int kUnits = Shape::kUnits;
  constexpr int kStages = Shape::kStages;
  constexpr int kWeightsOfThread = Shape::kWeightUnits / Shape::kThreads;
  constexpr int kInputsOfThread = Shape::kInputUnits / Shape::kThreads;
  auto* const a_tiles = reinterpret_cast<uint4*>(DynamicShared());
  uint4* const b_tiles = a_tiles + Shape::kSteps * Shape::kWeightUnits;
  int32_t tile;
  const ProductArgs& args = set.parts[set.Part(&tile)];
  const GroupedProduct& p = args.p;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarpSize;
  const int warp = thread / kWarpSize;
  const GroupRows rows(p, blockIdx.y);
  if (rows.count == 0) return;
  const WeightPointers weight =
      p.groups != nullptr ? p.groups[rows.group] : p.one;
  const int64_t first_feature = int64_t{tile} * Shape::kFeatures;
  const int64_t width = p.shape.in_features;
  const auto num_steps = static_cast<int32_t>(NumSteps<kType>(width));
  const auto segment_steps =
      static_cast<int32_t>(SegmentSteps<kType>(num_steps));
  // Of a step a thread brings eight neighbours of some rows.
  const int unit = thread % kUnits;
  WeightRow<kType> features[kWeightsOfThread];
#pragma unroll
  for (int i = 0; i < kWeightsOfThread; ++i) {
    features[i] = FeatureRow<kType>(
        args, weight, first_feature + (thread + i * Shape::kThreads) / kUnits);
  }

  for (int64_t first = int64_t{blockIdx.x} * kRows; first < rows.count;
       first += int64_t{gridDim.x} * kRows) {
    const uint16_t* in[kInputsOfThread];
#pragma unroll
    for (int i = 0; i < kInputsOfThread; ++i) {
      const int row = (thread + i * Shape::kThreads) / kUnits;
      in[i] = p.rounded.data + (rows.group * p.rounded.group_rows +
                                rows.Source(p, first + row)) *
                                   p.rounded.width;
    }
    WeightUnit<kType> pending[kWeightsOfThread] = {};
    const auto copy = [&](int32_t stage) {
#pragma unroll
      for (int32_t step = 2 * stage; step < 2 * stage + 2; ++step) {
        if (step >= num_steps) continue;
        const int slot = step % Shape::kSteps;
        const int32_t k = UnitAt<kType>(step, unit);
#pragma unroll
        for (int i = 0; i < kInputsOfThread; ++i) {
          CopyAsync16(b_tiles + slot * Shape::kInputUnits + thread +
                          i * Shape::kThreads,
                      in[i] + k, false);
        }
        if constexpr (kPath == WeightPath::kCopied) {
#pragma unroll
          for (int i = 0; i < kWeightsOfThread; ++i) {
            CopyAsync16(a_tiles + slot * Shape::kWeightUnits + thread +
                            i * Shape::kThreads,
                        features[i].data + 2 * k, false);
          }
        }
      }
      CommitCopies();
    };
    const auto fetch = [&](int32_t step) {
      if constexpr (kPath != WeightPath::kCopied) {
        if (step >= num_steps) return;
#pragma unroll
        for (int i = 0; i < kWeightsOfThread; ++i) {
          pending[i] = features[i].template Fetch<kPath == WeightPath::kWhole>(
              args.layout, UnitAt<kType>(step, unit));
        }
      }
    };
    const auto decode = [&](int32_t step) {
      if constexpr (kPath != WeightPath::kCopied) {
        if (step >= num_steps) return;
#pragma unroll
        for (int i = 0; i < kWeightsOfThread; ++i) {
          a_tiles[step % Shape::kSteps * Shape::kWeightUnits + thread +
                  i * Shape::kThreads] =
              DecodeBF16(pending[i], UnitAt<kType>(step, unit));
        }
      }
    };
    // A lane reads eight neighbours at once, four for each of the two tiles.
    const int a_at = (warp % 2 * 64 + lane / 4) * kUnits + lane % 4;
    const int b_at = (warp / 2 * 32 + lane / 4) * kUnits + lane % 4;
    float sums[4][4][4] = {};
    const auto multiply = [&](int32_t step) {
      const uint4* a =
          a_tiles + step % Shape::kSteps * Shape::kWeightUnits + a_at;
      const uint4* b =
          b_tiles + step % Shape::kSteps * Shape::kInputUnits + b_at;
      uint4 columns[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) columns[j] = b[8 * j * kUnits];
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        MultiplyStep(a[16 * m * kUnits], a[(16 * m + 8) * kUnits], columns,
                     sums[m]);
      }
    };

    float totals[4][4][4] = {};
    constexpr int32_t kAhead = 2 * (kStages - 1);  // steps
    for (int32_t stage = 0; stage < kStages - 1; ++stage) copy(stage);
    for (int32_t step = 0; step < kAhead; ++step) {
      fetch(step);
      decode(step);
    }
    fetch(kAhead);
    int32_t segment_end = segment_steps;
    for (int32_t stage = 0; 2 * stage < num_steps; ++stage) {
      WaitForCopies<kStages - 2>();
      __syncthreads();
      copy(stage + kStages - 1);
#pragma unroll
      for (int32_t step = 2 * stage; step < 2 * stage + 2; ++step) {
        if (step >= num_steps) continue;
        decode(step + kAhead);
        fetch(step + kAhead + 1);
        multiply(step);
        if (step + 1 < segment_end && step + 1 < num_steps) continue;
        segment_end += segment_steps;
#pragma unroll
        for (int m = 0; m < 4; ++m) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              totals[m][j][i] += sums[m][j][i];
              sums[m][j][i] = 0;
            }
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < 4; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const FeatureOut out(
            p, rows, first + warp / 2 * 32 + lane % 4 * 2,
            first_feature + warp % 2 * 64 + 16 * m + 8 * half + lane / 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            out.Write(8 * j + i, totals[m][j][2 * half + i]);
          }
        }
      }
    }
    __syncthreads();  // the tiles are written anew
  }
}

}  // namespace shoal::cuda
