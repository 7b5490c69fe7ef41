// Products on the tensor cores: weights and activations rounded to bf16, sums
// in f32. Two kernels, for the few rows of a decode step and for the many of a
// prefill. Both add up a value alike, to the bit: the width is cut into eight
// segments, a segment into steps of 32 and a step into two tiles of 16; the
// segments' sums are added in order. A step of a type with blocks of 32 has
// eight weights of each of four blocks, so that a lane can read its block at
// once. Both have loads of several steps under way. Included by
// linear_tensor_<types>.cu only.
#pragma once

#include <algorithm>

#include "kernels/cuda/linear_few_rows.cuh"
#include "kernels/cuda/linear_many_rows.cuh"

namespace shoal::cuda {

// The set of `parts`, and how many tiles of `features` they have together.
inline ProductSet MakeProductSet(const ProductParts& parts, int64_t features,
                                 unsigned* num_tiles) {
  ProductSet set;
  int64_t tiles = 0;
  for (const GroupedProduct& part : parts) {
    set.parts[set.num_parts] = MakeProductArgs(part);
    set.first_tile[set.num_parts++] = static_cast<int32_t>(tiles);
    tiles += (part.shape.out_features + features - 1) / features;
  }
  *num_tiles = static_cast<unsigned>(tiles);
  return set;
}

template <DType kType, int kRowTiles, bool kWhole>
void LaunchFewRows(LaunchContext& context, const ProductParts& parts) {
  const GroupedProduct& p = parts.front();
  dim3 grid;
  const ProductSet set = MakeProductSet(parts, 32, &grid.z);
  grid.y = static_cast<unsigned>(p.num_groups);
  // Thread blocks that share weights run side by side. Of groups with rows of
  // their own most have few, and some have many.
  constexpr int64_t kMostTiles = 4;
  const int64_t row_tiles = (p.num_rows + 8 * kRowTiles - 1) / (8 * kRowTiles);
  grid.x = static_cast<unsigned>(std::min(row_tiles, kMostTiles));
  context.Launch(FewRowsKernel<kType, kRowTiles, kWhole>, grid,
                 kSegments * kWarpSize, 0, set);
}

template <DType kType, int kRows, WeightPath kPath>
void LaunchManyRows(LaunchContext& context, const ProductParts& parts) {
  using Shape = ManyRowsShape<kRows>;
  const GroupedProduct& p = parts.front();
  dim3 grid;
  const ProductSet set = MakeProductSet(parts, Shape::kFeatures, &grid.z);
  grid.y = static_cast<unsigned>(p.num_groups);
  // Groups with rows of their own may have more than most.
  grid.x = static_cast<unsigned>(std::min((p.num_rows + kRows - 1) / kRows,
                                          2 * RowsOfGroup(p) / kRows + 1));
  context.Launch(ManyRowsKernel<kType, kRows, kPath>, grid, Shape::kThreads,
                 Shape::kSharedBytes, set);
}

template <typename Types>
bool RunTensorProductsOf(LaunchContext& context, const ProductParts& parts) {
  const GroupedProduct& first = parts.front();
  return Types::Dispatch(first.shape.dtype, [&]<DType kType>() {
    const int64_t rows = RowsOfGroup(first);
    // Larger blocks are whole steps, and read by the byte.
    constexpr bool kLargeBlocks = !kHasSeparateScales<kType> &&
                                  !kHasBlocks32<kType> &&
                                  kType != DType::kF16 && kType != DType::kBF16;
    bool whole = true, in_aligned = true;
    for (const GroupedProduct& part : parts) {
      const ProductArgs args = MakeProductArgs(part);
      whole &= part.shape.in_features % (kStepsOfBlocks<kType> * kStep) == 0 &&
               (kLargeBlocks || kHasBlocks32<kType> || args.layout.aligned);
      in_aligned &= args.in_aligned;
    }
    if (!NeedsRoundedInput(first)) {
      if (!whole || !in_aligned) {
        LaunchFewRows<kType, 1, false>(context, parts);
      } else if (rows <= 8) {
        LaunchFewRows<kType, 1, true>(context, parts);
      } else {
        LaunchFewRows<kType, 4, true>(context, parts);
      }
      return;
    }
    // Large tiles read less, small ones fill the device.
    int64_t large_tiles = 0;
    for (const GroupedProduct& part : parts) {
      large_tiles += (part.shape.out_features + 127) / 128;
    }
    large_tiles *= first.num_groups * ((rows + 127) / 128);
    const bool small =
        rows <= 64 || large_tiles < 2 * context.num_multiprocessors();
    const auto launch = [&]<WeightPath kPath>() {
      if (small) {
        LaunchManyRows<kType, 64, kPath>(context, parts);
      } else {
        LaunchManyRows<kType, 128, kPath>(context, parts);
      }
    };
    if constexpr (kLargeBlocks) {
      launch.template operator()<WeightPath::kWhole>();
    } else if (!whole) {
      LaunchManyRows<kType, 64, WeightPath::kAny>(context, parts);
    } else if constexpr (kType == DType::kBF16) {
      launch.template operator()<WeightPath::kCopied>();
    } else {
      launch.template operator()<WeightPath::kWhole>();
    }
  });
}

}  // namespace shoal::cuda
