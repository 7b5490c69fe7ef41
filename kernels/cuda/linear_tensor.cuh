// Products on the tensor cores: weights and activations rounded to bf16, sums
// in f32. Two kernels, for the few rows of a decode step and for the many of a
// prefill. Both add up a value alike, to the bit: the width is cut into eight
// segments, a segment into steps of 32 and a step into two tiles of 16; the
// segments' sums are added in order. Included by linear_tensor_<types>.cu only.
#pragma once

#include <algorithm>

#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace shoal::cuda {

inline constexpr int kSegments = 8;
inline constexpr int kStep = 4 * kUnit;
// Rows up to which the kernel for few of them serves.
inline constexpr int kFewRows = 32;

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

  // Input row `row` of the group, the last one for those past the end.
  __device__ __forceinline__ const float* Input(const GroupedProduct& p,
                                                int64_t row) const {
    const int64_t r = first + (row < count ? row : count - 1);
    const int64_t source =
        p.source_rows != nullptr ? p.source_rows[r] / p.source_divisor : r;
    return p.in + source * p.in_stride + group * p.in_group_stride;
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

// Weights [k, k + 8) of a feature, the last one for those past the end; zeros
// past the width.
template <DType kType>
__device__ __forceinline__ void LoadFeature8(const ProductArgs& args,
                                             const WeightPointers& weight,
                                             int64_t feature, int64_t k,
                                             float* w) {
  const MatrixShape& shape = args.p.shape;
  if (k < shape.in_features) {
    LoadWeights8<kType>(
        weight.data, weight.scales, args.layout,
        feature < shape.out_features ? feature : shape.out_features - 1, k, w);
  } else {
#pragma unroll
    for (int i = 0; i < kUnit; ++i) w[i] = 0;
  }
}

__device__ __forceinline__ int64_t SegmentWidth(int64_t width) {
  constexpr int64_t kUnitOfSegments = kSegments * kStep;
  return (width + kUnitOfSegments - 1) / kUnitOfSegments * kStep;
}

// Few rows: a thread block computes 32 features of 8 · kRowTiles rows at a
// time, each of its warps a segment, so that every weight goes once from memory
// to the register it is multiplied in. Of a step a lane holds eight neighbours,
// four for each tile, of weights and rows alike.
// Grid: tiles of features, groups, tiles of rows.
template <DType kType, int kRowTiles>
__global__ __launch_bounds__(kSegments* kWarpSize) void FewRowsKernel(
    const __grid_constant__ ProductArgs args) {
  constexpr int kFeatureTiles = 2;
  constexpr int kValues = kFeatureTiles * kRowTiles * 4;
  __shared__ float partial[kSegments][kValues][kWarpSize];
  const GroupedProduct& p = args.p;
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const GroupRows rows(p, blockIdx.y);
  if (rows.count == 0) return;
  const WeightPointers weight =
      p.groups != nullptr ? p.groups[rows.group] : p.one;
  const int64_t first_feature = int64_t{blockIdx.x} * kFeatureTiles * 16;
  const int64_t width = p.shape.in_features;
  const int64_t segment = SegmentWidth(width);
  const int64_t end =
      warp * segment + segment < width ? warp * segment + segment : width;

  for (int64_t first = int64_t{blockIdx.z} * kRowTiles * 8; first < rows.count;
       first += int64_t{gridDim.z} * kRowTiles * 8) {
    const float* in[kRowTiles];
#pragma unroll
    for (int j = 0; j < kRowTiles; ++j) {
      in[j] = rows.Input(p, first + 8 * j + lane / 4);
    }
    float sums[kFeatureTiles][kRowTiles][4] = {};
    for (int64_t base = warp * segment; base < end; base += kStep) {
      const int64_t k = base + lane % 4 * kUnit;
      uint32_t b[kRowTiles][2][2];
#pragma unroll
      for (int j = 0; j < kRowTiles; ++j) {
        float x[kUnit];
        LoadInput8(in[j], k, width, args.in_aligned, x);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          b[j][half][0] = PackBF16(x[4 * half], x[4 * half + 1]);
          b[j][half][1] = PackBF16(x[4 * half + 2], x[4 * half + 3]);
        }
      }
#pragma unroll
      for (int m = 0; m < kFeatureTiles; ++m) {
        const int64_t feature = first_feature + 16 * m + lane / 4;
        float upper[kUnit], lower[kUnit];
        LoadFeature8<kType>(args, weight, feature, k, upper);
        LoadFeature8<kType>(args, weight, feature + 8, k, lower);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t a[4] = {
              PackBF16(upper[4 * half], upper[4 * half + 1]),
              PackBF16(lower[4 * half], lower[4 * half + 1]),
              PackBF16(upper[4 * half + 2], upper[4 * half + 3]),
              PackBF16(lower[4 * half + 2], lower[4 * half + 3])};
#pragma unroll
          for (int j = 0; j < kRowTiles; ++j) {
            MultiplyTile(a, b[j][half], sums[m][j]);
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

// Many rows: a thread block computes 128 features of kRows rows, a warp 32 of
// each. A step lies in shared memory as bf16, in the order of the width, while
// the next one is on its way to registers. Grid: tiles of rows, groups, tiles
// of features: blocks that share weights run side by side.
template <DType kType, int kRows>
__global__ __launch_bounds__(4 * kRows) void ManyRowsKernel(
    const __grid_constant__ ProductArgs args) {
  constexpr int kFeatures = 128;
  constexpr int kUnitRows = kRows;  // rows that all threads load at once
  constexpr int kFeatureUnits = kFeatures / kUnitRows;
  constexpr int kUnits = kStep / kUnit;  // of a row of a tile
  constexpr int kTiles = 4;              // of eight rows, a warp's
  __shared__ uint4 a_tile[2][kFeatures * kUnits];
  __shared__ uint4 b_tile[2][kRows * kUnits];
  const GroupedProduct& p = args.p;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarpSize;
  const int warp = thread / kWarpSize;
  const GroupRows rows(p, blockIdx.y);
  if (rows.count == 0) return;
  const WeightPointers weight =
      p.groups != nullptr ? p.groups[rows.group] : p.one;
  const int64_t first_feature = int64_t{blockIdx.z} * kFeatures;
  const int64_t width = p.shape.in_features;
  const int64_t segment = SegmentWidth(width);
  // What this thread loads of a step: eight neighbours of one row and of one or
  // two features.
  const int unit = thread % kUnits;
  const int unit_row = thread / kUnits;

  for (int64_t first = int64_t{blockIdx.x} * kRows; first < rows.count;
       first += int64_t{gridDim.x} * kRows) {
    const float* in = rows.Input(p, first + unit_row);
    float w[kFeatureUnits][kUnit], x[kUnit];
    const auto load = [&](int64_t base) {
      const int64_t k = base + unit * kUnit;
#pragma unroll
      for (int i = 0; i < kFeatureUnits; ++i) {
        LoadFeature8<kType>(args, weight,
                            first_feature + unit_row + i * kUnitRows, k, w[i]);
      }
      LoadInput8(in, k, width, args.in_aligned, x);
    };
    const auto pack = [](const float* v) -> uint4 {
      return {PackBF16(v[0], v[1]), PackBF16(v[2], v[3]), PackBF16(v[4], v[5]),
              PackBF16(v[6], v[7])};
    };
    const auto store = [&](int buffer) {
#pragma unroll
      for (int i = 0; i < kFeatureUnits; ++i) {
        a_tile[buffer][(unit_row + i * kUnitRows) * kUnits + unit] = pack(w[i]);
      }
      b_tile[buffer][unit_row * kUnits + unit] = pack(x);
    };
    // A lane reads eight neighbours at once, four for each of the two tiles.
    const int a_at = (warp % 4 * 32 + lane / 4) * kUnits + lane % 4;
    const int b_at = (warp / 4 * 32 + lane / 4) * kUnits + lane % 4;
    float sums[2][kTiles][4] = {};
    const auto multiply = [&](int buffer) {
      uint4 upper[2], lower[2];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        upper[m] = a_tile[buffer][a_at + 16 * m * kUnits];
        lower[m] = a_tile[buffer][a_at + (16 * m + 8) * kUnits];
      }
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const uint4 column = b_tile[buffer][b_at + 8 * j * kUnits];
        const uint32_t b[2][2] = {{column.x, column.y}, {column.z, column.w}};
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const uint32_t a[2][4] = {
              {upper[m].x, lower[m].x, upper[m].y, lower[m].y},
              {upper[m].z, lower[m].z, upper[m].w, lower[m].w}};
          MultiplyTile(a[0], b[0], sums[m][j]);
          MultiplyTile(a[1], b[1], sums[m][j]);
        }
      }
    };

    float totals[2][kTiles][4] = {};
    load(0);
    store(0);
    __syncthreads();
    int buffer = 0;
    int64_t end = segment;
    for (int64_t base = 0; base < width; base += kStep) {
      const bool more = base + kStep < width;
      if (more) load(base + kStep);
      multiply(buffer);
      buffer = 1 - buffer;
      if (more) store(buffer);
      __syncthreads();
      if (more && base + kStep < end) continue;
      end += segment;
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            totals[m][j][i] += sums[m][j][i];
            sums[m][j][i] = 0;
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          rows.Write(p, first + warp / 4 * 32 + 8 * j + lane % 4 * 2 + i % 2,
                     first_feature + warp % 4 * 32 + 16 * m + lane / 4 +
                         (i >= 2 ? 8 : 0),
                     totals[m][j][i]);
        }
      }
    }
  }
}

template <DType kType, int kRowTiles>
void LaunchFewRows(LaunchContext& context, const ProductArgs& args) {
  const GroupedProduct& p = args.p;
  const int64_t tiles = (p.shape.out_features + 31) / 32;
  const int64_t row_tiles = (p.num_rows + 8 * kRowTiles - 1) / (8 * kRowTiles);
  const int64_t wanted =
      4 * context.num_multiprocessors() / (tiles * p.num_groups) + 1;
  context.Launch(
      FewRowsKernel<kType, kRowTiles>,
      dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(p.num_groups),
           static_cast<unsigned>(std::min(row_tiles, wanted))),
      kSegments * kWarpSize, 0, args);
}

template <DType kType, int kRows>
void LaunchManyRows(LaunchContext& context, const ProductArgs& args,
                    int64_t rows_of_group) {
  const GroupedProduct& p = args.p;
  // Groups with rows of their own may have more than most.
  const int64_t row_tiles =
      std::min((p.num_rows + kRows - 1) / kRows, 2 * rows_of_group / kRows + 1);
  context.Launch(
      ManyRowsKernel<kType, kRows>,
      dim3(static_cast<unsigned>(row_tiles),
           static_cast<unsigned>(p.num_groups),
           static_cast<unsigned>((p.shape.out_features + 127) / 128)),
      4 * kRows, 0, args);
}

template <typename Types>
bool RunTensorProductOf(LaunchContext& context, const GroupedProduct& product) {
  return Types::Dispatch(product.shape.dtype, [&]<DType kType>() {
    const ProductArgs args = MakeProductArgs(product);
    const int64_t rows = RowsOfGroup(product);
    if (rows <= 8) {
      LaunchFewRows<kType, 1>(context, args);
    } else if (rows <= kFewRows) {
      LaunchFewRows<kType, 4>(context, args);
    } else if (rows <= 64 || product.active != nullptr) {
      LaunchManyRows<kType, 64>(context, args, rows);
    } else {
      LaunchManyRows<kType, 128>(context, args, rows);
    }
  });
}

}  // namespace shoal::cuda
