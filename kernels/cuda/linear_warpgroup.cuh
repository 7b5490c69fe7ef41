// Products of many rows by warpgroups; see linear_tensor.cuh.
#pragma once

#include <type_traits>

#include "kernels/cuda/decode_blocks.cuh"
#include "kernels/cuda/linear_steps.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace shoal::cuda {

template <int kRows>
struct WarpgroupShape {
  static constexpr int kFeatures = 128;
  static constexpr int kThreads = 2 * kFeatures;
  static constexpr int kSteps = 8;  // in shared memory, two to a stage
  static constexpr int kStages = kSteps / 2;
  static constexpr int kUnits = kStep / kUnit;  // of a row of a step
  static constexpr int kStepBytes =
      kRows * kUnits * static_cast<int>(sizeof(uint4));
  static constexpr size_t kSharedBytes = size_t{kSteps} * kStepBytes;
};

// The weights that a lane brings to a product: two features' units of steps,
// loaded some steps ahead. Steps come in turn.
template <DType kType>
class WarpgroupWeights {
 public:
  __device__ __forceinline__ void Begin(const ProductArgs& args,
                                        const WeightPointers& weight,
                                        int64_t feature, int32_t num_steps) {
    num_steps_ = num_steps;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      rows_[half] = FeatureRow<kType>(args, weight, feature + 8 * half);
    }
  }
  // The first steps.
  __device__ __forceinline__ void Start(const WeightLayout& layout, int unit) {
    if constexpr (kBlocks) {
      FetchBlocks(0, unit);
      Shift();
    } else {
#pragma unroll
      for (int s = 0; s < kAhead; ++s) FetchUnits(layout, s, s, unit);
    }
  }
  // Before the steps [step, step + 4).
  __device__ __forceinline__ void OpenRound(int32_t step, int unit) {
    if constexpr (kBlocks) FetchBlocks(step + 4, unit);
  }
  // Step `step`, kAt-th of its round of four, as `a` of the step's two
  // products. Its place is then taken by what comes kAhead steps later.
  template <int kAt>
  __device__ __forceinline__ void Take(const WeightLayout& layout, int32_t step,
                                       int unit, uint32_t (&near)[4],
                                       uint32_t (&far)[4]) {
    uint4 row[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (kBlocks) {
        row[half] =
            DecodeBF16(blocks_[half].Unit(kAt),
                       BlockAt(step, unit) + WeightBlock<kType>::Offset(kAt));
      } else {
        row[half] =
            DecodeBF16(units_[kAt % kAhead][half], UnitAt<kType>(step, unit));
      }
    }
    near[0] = row[0].x, near[1] = row[1].x, near[2] = row[0].y,
    near[3] = row[1].y;
    far[0] = row[0].z, far[1] = row[1].z, far[2] = row[0].w, far[3] = row[1].w;
    if constexpr (!kBlocks) {
      FetchUnits(layout, kAt % kAhead, step + kAhead, unit);
    }
  }
  __device__ __forceinline__ void CloseRound() {
    if constexpr (kBlocks) Shift();
  }

 private:
  static constexpr bool kBlocks = kHasBlocks32<kType>;
  // Units of large blocks are many registers.
  static constexpr int kAhead = kHasLargeBlocks<kType> ? 2 : 4;
  struct Nothing {};

  __device__ __forceinline__ void FetchUnits(const WeightLayout& layout, int at,
                                             int32_t step, int unit) {
    if (step >= num_steps_) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      units_[at][half] =
          rows_[half].template Fetch<true>(layout, UnitAt<kType>(step, unit));
    }
  }
  __device__ __forceinline__ void FetchBlocks(int32_t step, int unit) {
    if (step >= num_steps_) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      next_[half].Fetch(rows_[half].data,
                        static_cast<uint32_t>(UnitAt<kType>(step, unit)) / 32);
    }
  }
  __device__ __forceinline__ void Shift() {
#pragma unroll
    for (int half = 0; half < 2; ++half) blocks_[half] = next_[half];
  }

  WeightRow<kType> rows_[2];
  int32_t num_steps_;
  std::conditional_t<kBlocks, Nothing, WeightUnit<kType>> units_[kAhead][2];
  std::conditional_t<kBlocks, WeightBlock<kType>, Nothing> blocks_[2], next_[2];
};

// Many rows: a thread block computes 128 features of kRows rows, a warp 16 of
// all rows. Weights go from memory to the registers that they are multiplied
// from; inputs lie in shared memory in the form of steps (InputForm), two
// stages on their way while a third is multiplied and a fourth still read.
// Sums are those of the other kernels, to the bit. Grid: tiles of rows, groups,
// tiles of features: blocks that share weights run side by side.
template <DType kType, int kRows>
__global__ __launch_bounds__(
    WarpgroupShape<kRows>::kThreads,
    1) void WarpgroupRowsKernel(const __grid_constant__ ProductSet set) {
#if SHOAL_HAS_WARPGROUPS
  using Shape = WarpgroupShape<kRows>;
  constexpr int kUnits = Shape::kUnits;
  constexpr int kInputsOfThread = kRows * kUnits / Shape::kThreads;
  uint8_t* const tiles = DynamicShared();
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
  const int64_t feature =
      int64_t{tile} * Shape::kFeatures + 16 * warp + lane / 4;
  const auto num_steps =
      static_cast<int32_t>(NumSteps<kType>(p.shape.in_features));
  const auto segment_steps =
      static_cast<int32_t>(SegmentSteps<kType>(num_steps));
  WarpgroupWeights<kType> weights;
  weights.Begin(args, weight, feature, num_steps);

  for (int64_t first = int64_t{blockIdx.x} * kRows; first < rows.count;
       first += int64_t{gridDim.x} * kRows) {
    // Of a step a thread brings a unit of some rows.
    const int unit = thread % kUnits;
    const uint16_t* in[kInputsOfThread];
    int to[kInputsOfThread];
#pragma unroll
    for (int i = 0; i < kInputsOfThread; ++i) {
      const int row = (thread + i * Shape::kThreads) / kUnits;
      in[i] =
          p.rounded.data +
          (rows.group * p.rounded.group_rows + rows.Source(p, first + row)) *
              p.rounded.width +
          unit * kUnit;
      to[i] = BlockAt(row, unit, kUnits);
    }
    const auto copy = [&](int32_t stage) {
#pragma unroll
      for (int32_t step = 2 * stage; step < 2 * stage + 2; ++step) {
        if (step >= num_steps) continue;
        uint8_t* slot = tiles + step % Shape::kSteps * Shape::kStepBytes;
#pragma unroll
        for (int i = 0; i < kInputsOfThread; ++i) {
          CopyAsync16(slot + to[i], in[i] + step * kStep, false);
        }
      }
      CommitCopies();
    };

    float sums[kRows / 2];
    float totals[kRows / 2] = {};
    // Of two stages: one is multiplied while the next is decoded.
    uint32_t near[2][2][4];
    uint32_t far[2][2][4];
    int32_t segment_begin = 0;
    const auto multiply = [&]<int kStage>(int32_t first_step) {
      WaitForCopies<Shape::kStages - 3>();
      PublishToProducts();
      __syncthreads();
      copy(first_step / 2 + Shape::kStages - 2);
      if (first_step < num_steps) {
        weights.template Take<2 * kStage>(args.layout, first_step, lane % 4,
                                          near[kStage][0], far[kStage][0]);
      }
      if (first_step + 1 < num_steps) {
        weights.template Take<2 * kStage + 1>(args.layout, first_step + 1,
                                              lane % 4, near[kStage][1],
                                              far[kStage][1]);
      }
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        PinRegisters(near[kStage][s]);
        PinRegisters(far[kStage][s]);
      }
      OpenProducts();
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const int32_t step = first_step + s;
        if (step >= num_steps) continue;
        const SharedTile of_near = {
            tiles + step % Shape::kSteps * Shape::kStepBytes, kBlockBytes,
            kBlockBytes * kUnits};
        SharedTile of_far = of_near;
        of_far.data += 2 * kBlockBytes;
        MultiplyAsync<kRows>(near[kStage][s], of_near, step != segment_begin,
                             sums);
        MultiplyAsync<kRows>(far[kStage][s], of_far, true, sums);
        if (step + 1 < segment_begin + segment_steps && step + 1 < num_steps) {
          continue;
        }
        segment_begin = step + 1;
        CommitProducts();
        WaitForProducts<0>();
        PinRegisters(sums);
#pragma unroll
        for (int i = 0; i < kRows / 2; ++i) totals[i] += sums[i];
        OpenProducts();
      }
      CommitProducts();
      WaitForProducts<1>();
    };

    for (int32_t stage = 0; stage < Shape::kStages - 2; ++stage) copy(stage);
    weights.Start(args.layout, lane % 4);
    for (int32_t step = 0; step < num_steps; step += 4) {
      weights.OpenRound(step, lane % 4);
      multiply.template operator()<0>(step);
      if (step + 2 < num_steps) multiply.template operator()<1>(step + 2);
      weights.CloseRound();
    }
    WaitForProducts<0>();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const FeatureOut out(p, rows, first + lane % 4 * 2, feature + 8 * half);
#pragma unroll
      for (int j = 0; j < kRows / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          out.Write(8 * j + i, totals[4 * j + 2 * half + i]);
        }
      }
    }
    __syncthreads();  // the tiles are written anew
  }
#endif
}

}  // namespace shoal::cuda
