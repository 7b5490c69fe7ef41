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
#include <type_traits>

#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace shoal::cuda {

inline constexpr int kSegments = 8;
inline constexpr int kStep = 4 * kUnit;

// The rows of the group that a thread block works on.
struct GroupRows {
  int64_t group = 0;
  int64_t first = 0;
  int64_t count = 0;  // 0: nothing to do

  __device__ __forceinline__ GroupRows(const GroupedProduct& p, int64_t index)
      : group(index), count(p.num_rows) {
    if (p.active == nullptr) return;
    count = 0;
    if (index >= *p.num_active) return;
    group = p.active[index];
    first = p.first_rows[group];
    count = p.first_rows[group + 1] - first;
  }

  // Where the input of the group's row `row` lies among input rows, of the last
  // one for rows past the end.
  __device__ __forceinline__ int64_t Source(const GroupedProduct& p,
                                            int64_t row) const {
    const int64_t r = first + (row < count ? row : count - 1);
    return p.source_rows != nullptr ? p.source_rows[r] / p.source_divisor : r;
  }

  __device__ __forceinline__ void Write(const GroupedProduct& p, int64_t row,
                                        int64_t feature, float value) const {
    if (row >= count || feature >= p.shape.out_features) return;
    float* out = p.out + (first + row) * p.out_stride +
                 group * p.out_group_stride + feature;
    if (p.bias != nullptr) value += p.bias[feature];
    *out = p.accumulate ? *out + value : value;
  }
};

// A feature's weights, the last one's for those past the end.
template <DType kType>
__device__ __forceinline__ WeightRow<kType> FeatureRow(
    const ProductArgs& args, const WeightPointers& weight, int64_t feature) {
  const int64_t last = args.p.shape.out_features - 1;
  return WeightRow<kType>(weight.data, weight.scales, args.layout,
                          feature < last ? feature : last);
}

// Eight values as bf16, in order.
__device__ __forceinline__ uint4 Pack8(const float* v) {
  return {PackBF16(v[0], v[1]), PackBF16(v[2], v[3]), PackBF16(v[4], v[5]),
          PackBF16(v[6], v[7])};
}
template <DType kType>
__device__ __forceinline__ uint4 DecodeBF16(const WeightUnit<kType>& unit,
                                            int64_t k) {
  if constexpr (kType == DType::kBF16) {
    return {unit.codes[0], unit.codes[1], unit.codes[2], unit.codes[3]};
  } else {
    float w[kUnit];
    Decode(unit, k, w);
    return Pack8(w);
  }
}

// sums[j] += a step of 16 features, rows g and g + 8 of which are `upper` and
// `lower`, times the eight rows b[j]; see MultiplyTile().
template <int kRowTiles>
__device__ __forceinline__ void MultiplyStep(const uint4& upper,
                                             const uint4& lower,
                                             const uint4 (&b)[kRowTiles],
                                             float (&sums)[kRowTiles][4]) {
  const uint32_t near[4] = {upper.x, lower.x, upper.y, lower.y};
  const uint32_t far[4] = {upper.z, lower.z, upper.w, lower.w};
  // Not a pair at a time: the second of it would wait for the first.
#pragma unroll
  for (int j = 0; j < kRowTiles; ++j) {
    const uint32_t column[2] = {b[j].x, b[j].y};
    MultiplyTile(near, column, sums[j]);
  }
#pragma unroll
  for (int j = 0; j < kRowTiles; ++j) {
    const uint32_t column[2] = {b[j].z, b[j].w};
    MultiplyTile(far, column, sums[j]);
  }
}

// Steps that share the blocks they read.
template <DType kType>
inline constexpr int kStepsOfBlocks = kHasBlocks32<kType> ? 4 : 1;

// Where unit `unit` (of four) of a step begins in the width.
template <DType kType>
__device__ __forceinline__ int32_t UnitAt(int32_t step, int unit) {
  constexpr int kTogether = kStepsOfBlocks<kType>;
  return step / kTogether * kTogether * kStep + unit * kTogether * kUnit +
         step % kTogether * kUnit;
}

// Steps of a width, and of one of its segments.
template <DType kType>
__device__ __forceinline__ int64_t NumSteps(int64_t width) {
  constexpr int64_t kTogether = kStepsOfBlocks<kType>;
  return (width + kTogether * kStep - 1) / (kTogether * kStep) * kTogether;
}
template <DType kType>
__device__ __forceinline__ int64_t SegmentSteps(int64_t num_steps) {
  constexpr int64_t kTogether = kStepsOfBlocks<kType> * kSegments;
  return (num_steps + kTogether - 1) / kTogether * kStepsOfBlocks<kType>;
}

// What one launch computes: the tiles of features of its parts one after the
// other, in blockIdx.z.
struct ProductSet {
  ProductArgs parts[kMostParts];
  int32_t first_tile[kMostParts] = {};
  int32_t num_parts = 0;

  // The part of this thread block, and which of its tiles.
  __device__ __forceinline__ int Part(int32_t* tile) const {
    int part = 0;
    while (part + 1 < num_parts &&
           static_cast<int32_t>(blockIdx.z) >= first_tile[part + 1]) {
      ++part;
    }
    *tile = static_cast<int32_t>(blockIdx.z) - first_tile[part];
    return part;
  }
};

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
  const WeightPointers weight =
      p.groups != nullptr ? p.groups[rows.group] : p.one;
  const int64_t first_feature = int64_t{tile} * kFeatureTiles * 16;
  WeightRow<kType> features[kFeatureTiles][2];
#pragma unroll
  for (int m = 0; m < kFeatureTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      features[m][half] = FeatureRow<kType>(
          args, weight, first_feature + 16 * m + 8 * half + lane / 4);
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
    for (int v = warp; v < kValues; v += kSegments) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kSegments; ++w) sum += partial[w][v][lane];
      rows.Write(p, first + v / 4 % kRowTiles * 8 + lane % 4 * 2 + v % 2,
                 first_feature + v / (4 * kRowTiles) * 16 + lane / 4 +
                     (v % 4 >= 2 ? 8 : 0),
                 sum);
    }
    __syncthreads();
  }
}

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
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          rows.Write(p, first + warp / 2 * 32 + 8 * j + lane % 4 * 2 + i % 2,
                     first_feature + warp % 2 * 64 + 16 * m + lane / 4 +
                         (i >= 2 ? 8 : 0),
                     totals[m][j][i]);
        }
      }
    }
    __syncthreads();  // the tiles are written anew
  }
}

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
