// Products on the tensor cores: weights and activations rounded to bf16, sums
// in f32. Three kernels: for the few rows of a decode step, for the many of a
// prefill, and for those by warpgroups, where the device has them. All add up a
// value alike, to the bit: the width is cut into eight segments, a segment into
// steps of 32 and a step into two tiles of 16; the segments' sums are added in
// order. A step of a type with blocks of 32 has eight weights of each of four
// blocks, so that a lane can read its block at once. All have loads of several
// steps under way. Included by linear_tensor_<types>.cu only.
#pragma once

#include "kernels/cuda/linear_few_rows.cuh"
#include "kernels/cuda/linear_many_rows.cuh"
#include "kernels/cuda/linear_warpgroup.cuh"

namespace shoal::cuda {

// The set of `parts`, and how many tiles of `features` they have together.
inline ProductSet MakeProductSet(const ProductParts& parts,
                                 const RoundedInput& rounded, int64_t features,
                                 unsigned* num_tiles) {
  ProductSet set;
  int64_t tiles = 0;
  int64_t beside_tiles = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const GroupedProduct& part = parts[i];
    set.parts[i] = MakeProductArgs(part);
    set.parts[i].p.rounded = rounded;
    // Half of a tile is then the next part's, which has none of its own.
    if (i > 0 && parts[i - 1].gates) continue;
    const int64_t of_tile = part.gates ? features / 2 : features;
    const int64_t count = (part.shape.out_features + of_tile - 1) / of_tile;
    if (part.beside) {
      set.beside = static_cast<int32_t>(i);
      beside_tiles = count;
    } else {
      set.first_tile[set.num_parts++] = static_cast<int32_t>(tiles);
      tiles += count;
    }
  }
  *num_tiles = static_cast<unsigned>(std::max(tiles, beside_tiles));
  return set;
}

// Thread blocks that share weights, which run side by side.
inline unsigned RowTiles(const GroupedProduct& p, int64_t rows) {
  return HasOwnRows(p) ? 1
                       : static_cast<unsigned>((p.num_rows + rows - 1) / rows);
}

template <DType kType, int kRowTiles, bool kWhole>
void LaunchFewRows(LaunchContext& context, const ProductParts& parts) {
  const GroupedProduct& p = parts.front();
  dim3 grid;
  ProductSet set = MakeProductSet(parts, {}, kFewRowsFeatures, &grid.z);
  set.counters = context.counters();
  grid.x = RowTiles(p, 8 * kRowTiles);
  grid.y = static_cast<unsigned>(NumGroupTiles(p)) + (set.beside > 0 ? 1u : 0u);
  context.Launch(FewRowsKernel<kType, kRowTiles, kWhole>, grid,
                 kSegments * kWarpSize, 0, set);
}

// `kernel` computes tiles of Shape::kFeatures features and kRows rows.
template <typename Shape, int kRows>
void LaunchRows(LaunchContext& context, void (*kernel)(ProductSet),
                const ProductParts& parts, const RoundedInput& rounded) {
  const GroupedProduct& p = parts.front();
  dim3 grid;
  const ProductSet set =
      MakeProductSet(parts, rounded, Shape::kFeatures, &grid.z);
  grid.x = RowTiles(p, kRows);
  grid.y = static_cast<unsigned>(NumGroupTiles(p));
  context.Launch(kernel, grid, Shape::kThreads, Shape::kSharedBytes, set);
}

template <DType kType, int kRows>
void LaunchManyRows(LaunchContext& context, const ProductParts& parts,
                    const RoundedInput& rounded, bool whole) {
  // Blocks of 256 are whole steps, and read by the byte.
  constexpr bool kAlwaysWhole = kHasLargeBlocks<kType>;
  using Shape = ManyRowsShape<kRows>;
  if (rounded.form != InputForm::kWidth) {
    LaunchRows<WarpgroupShape<kRows>, kRows>(
        context, WarpgroupRowsKernel<kType, kRows>, parts, rounded);
  } else if (kAlwaysWhole || whole) {
    LaunchRows<Shape, kRows>(
        context, ManyRowsKernel < kType, kRows,
        kType == DType::kBF16 ? WeightPath::kCopied : WeightPath::kWhole >,
        parts, rounded);
  } else if constexpr (!kAlwaysWhole) {
    LaunchRows<Shape, kRows>(context,
                             ManyRowsKernel<kType, kRows, WeightPath::kAny>,
                             parts, rounded);
  }
}

template <typename Types>
bool RunTensorProductsOf(LaunchContext& context, const ProductParts& parts,
                         RoundedInput& rounded) {
  const GroupedProduct& first = parts.front();
  return Types::Dispatch(first.shape.dtype, [&]<DType kType>() {
    const int64_t rows = RowsOfGroup(first);
    bool whole = true, in_aligned = true;
    for (const GroupedProduct& part : parts) {
      const ProductArgs args = MakeProductArgs(part);
      whole &= part.shape.in_features % (kStepsOfBlocks<kType> * kStep) == 0 &&
               (kHasLargeBlocks<kType> || kHasBlocks32<kType> ||
                args.layout.aligned);
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
    const InputForm form = !whole || !context.warpgroups().products
                               ? InputForm::kWidth
                           : kHasBlocks32<kType> ? InputForm::kStepsOfBlocks
                                                 : InputForm::kSteps;
    if (rounded.data == nullptr || rounded.form != form) {
      rounded = RoundInput(context, first, form);
    }
    // Large tiles read less, small ones fill the device.
    int64_t large_tiles = 0;
    for (const GroupedProduct& part : parts) {
      large_tiles += (part.shape.out_features + 127) / 128;
    }
    large_tiles *= first.num_groups * ((rows + 127) / 128);
    const bool small =
        first.tiles != nullptr
            ? RowsOfTile(first.num_rows, first.num_groups, true) < 128
            : rows <= 64 || large_tiles < 2 * context.num_multiprocessors();
    if (small) {
      LaunchManyRows<kType, 64>(context, parts, rounded, whole);
    } else {
      LaunchManyRows<kType, 128>(context, parts, rounded, whole);
    }
  });
}

}  // namespace shoal::cuda
