// The exact kernel of linear.h and its launcher. Included by linear_<types>.cu,
// moe_route.cu and linear_tensor.cuh only.
#pragma once

#include <algorithm>

#include "kernels/cuda/decode_weights.cuh"
#include "kernels/cuda/linear.h"

namespace shoal::cuda {

inline constexpr int kProductWarps = 4;

struct ProductArgs {
  GroupedProduct p;
  WeightLayout layout;
  bool in_aligned = false;  // input rows begin at 16-byte addresses
};

// The rows of the group that a thread block works on.
struct GroupRows {
  int64_t group = 0;
  int64_t first = 0;
  int64_t count = 0;  // 0: nothing to do

  __device__ __forceinline__ GroupRows(const GroupedProduct& p, int64_t index)
      : group(index), count(p.num_rows) {
    if (p.tiles == nullptr) return;
    const auto tile = *reinterpret_cast<const uint4*>(p.tiles + index);
    group = static_cast<int32_t>(tile.x);
    first = static_cast<int32_t>(tile.y);
    count = static_cast<int32_t>(tile.z);
  }

  // Where the input of the group's row `row` lies among input rows, of the last
  // one for rows past the end.
  __device__ __forceinline__ int64_t Source(const GroupedProduct& p,
                                            int64_t row) const {
    const int64_t r = first + (row < count ? row : count - 1);
    return p.source_rows != nullptr ? p.source_rows[r] / p.source_divisor : r;
  }
};

// The same of products of few rows, which may name their groups. By a whole
// warp; the first of a group's rows then has the thread block that works on all
// of them.
struct FewGroupRows : GroupRows {
  uint64_t listed = 0;  // bit r: row r is the group's

  __device__ __forceinline__ FewGroupRows(const GroupedProduct& p,
                                          int64_t index)
      : GroupRows(p, index) {
    if (p.row_groups == nullptr) return;
    const int32_t named = p.row_groups[index];
#pragma unroll
    for (int half = 0; half < kMostListed / kWarpSize; ++half) {
      const int row = half * kWarpSize + threadIdx.x % kWarpSize;
      const bool same = row < p.num_rows && p.row_groups[row] == named;
      listed |= uint64_t{__ballot_sync(kAllLanes, same)} << half * kWarpSize;
    }
    const bool leads = (listed & ((uint64_t{1} << index) - 1)) == 0;
    group = named;
    count = leads && HasWeights(p, named) ? __popcll(listed) : 0;
  }

  __device__ __forceinline__ static bool HasWeights(const GroupedProduct& p,
                                                    int32_t group) {
    return group >= 0 && p.groups[group].data != nullptr;
  }

  // The group's row `row`, the last one for rows past the end.
  __device__ __forceinline__ int64_t Row(int64_t row) const {
    if (listed == 0) return first + (row < count ? row : count - 1);
    uint64_t rest = listed;
    for (; row > 0 && (rest & (rest - 1)) != 0; --row) rest &= rest - 1;
    return __ffsll(static_cast<long long>(rest)) - 1;
  }
  // Where its input lies.
  __device__ __forceinline__ int64_t Source(const GroupedProduct& p,
                                            int64_t row) const {
    if (listed == 0) return GroupRows::Source(p, row);
    return static_cast<int32_t>(Row(row)) / p.source_divisor;
  }
  // Writes a result. `gated`: the product that `p` gates, whose sum is `up`.
  __device__ __forceinline__ void Write(const GroupedProduct& p, int64_t row,
                                        int64_t feature, float value,
                                        const GroupedProduct* gated = nullptr,
                                        float up = 0) const {
    if (row >= count || feature >= p.shape.out_features) return;
    float* out =
        p.out + Row(row) * p.out_stride + group * p.out_group_stride + feature;
    if (p.bias != nullptr) value += p.bias[feature];
    if (gated != nullptr) {
      if (gated->bias != nullptr) up += gated->bias[feature];
      value = Gated(value, up, p.gate_limit);
    }
    *out = p.accumulate ? *out + value : value;
  }
};

// One value of the product's ChoiceSum.
__device__ __forceinline__ void AddChoices(const GroupedProduct& p,
                                           int64_t token, int64_t feature) {
  const ChoiceSum& s = p.sum;
  float* out = s.out + token * p.shape.out_features + feature;
  float sum = *out;
  for (int64_t c = token * s.top_k; c < (token + 1) * s.top_k; ++c) {
    const int64_t row = s.row_of_choice != nullptr ? s.row_of_choice[c]
                        : FewGroupRows::HasWeights(p, p.row_groups[c]) ? c
                                                                       : -1;
    if (row >= 0) {
      sum = fmaf(s.weights[c], p.out[row * p.out_stride + feature], sum);
    }
  }
  if (s.last != nullptr) {
    sum += s.last[token * p.shape.out_features + feature];
  }
  *out = sum;
}

// x[k, k + 8) of a row of `width`, zeros past its end. kWhole: none are past it
// and the row is aligned.
template <bool kWhole = false>
__device__ __forceinline__ void LoadInput8(const float* row, int64_t k,
                                           int64_t width, bool aligned,
                                           float* x) {
  if (kWhole || (aligned && k + kUnit <= width)) {
    const float4 a = *reinterpret_cast<const float4*>(row + k);
    const float4 b = *reinterpret_cast<const float4*>(row + k + 4);
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
    x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
  } else {
#pragma unroll
    for (int i = 0; i < kUnit; ++i) x[i] = k + i < width ? row[k + i] : 0.0f;
  }
}

// A thread block's part of a product. Grid: tiles of output features, groups,
// tiles of tokens. A warp computes kFeatures output features of kTokens rows at
// a time; lanes stride over units of eight weights.
template <DType kType, int kTokens, int kFeatures>
__device__ __forceinline__ void MultiplyExact(const ProductArgs& args) {
  const GroupedProduct& p = args.p;
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const int64_t first_feature =
      (int64_t{blockIdx.x} * kProductWarps + warp) * kFeatures;
  const FewGroupRows rows(p, blockIdx.y);
  if (first_feature >= p.shape.out_features) return;
  if (rows.count == 0) return;
  const WeightPointers weight =
      p.groups != nullptr ? p.groups[rows.group] : p.one;
  const int64_t width = p.shape.in_features;

  for (int64_t tile = int64_t{blockIdx.z} * kTokens; tile < rows.count;
       tile += int64_t{gridDim.z} * kTokens) {
    // Rows past the end repeat the last one; their results are not written.
    const float* in[kTokens];
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      in[t] = p.in + rows.Source(p, tile + t) * p.in_stride +
              rows.group * p.in_group_stride;
    }
    float sums[kFeatures][kTokens] = {};
    for (int64_t k = lane * kUnit; k < width; k += kWarpSize * kUnit) {
      float w[kFeatures][kUnit];
#pragma unroll
      for (int f = 0; f < kFeatures; ++f) {
        const int64_t feature = first_feature + f < p.shape.out_features
                                    ? first_feature + f
                                    : p.shape.out_features - 1;
        LoadWeights8<kType>(weight.data, weight.scales, args.layout, feature, k,
                            w[f]);
      }
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        float x[kUnit];
        LoadInput8(in[t], k, width, args.in_aligned, x);
#pragma unroll
        for (int f = 0; f < kFeatures; ++f) {
#pragma unroll
          for (int i = 0; i < kUnit; ++i) {
            sums[f][t] = fmaf(w[f][i], x[i], sums[f][t]);
          }
        }
      }
    }
    // Lane f · kTokens + t writes feature f of row t.
    float mine = 0;
#pragma unroll
    for (int f = 0; f < kFeatures; ++f) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const float sum = WarpSum(sums[f][t]);
        if (lane == f * kTokens + t) mine = sum;
      }
    }
    const int64_t feature = first_feature + lane / kTokens;
    const int64_t row = tile + lane % kTokens;
    if (lane < kFeatures * kTokens) rows.Write(p, row, feature, mine);
  }
}

template <DType kType, int kTokens, int kFeatures>
__global__ __launch_bounds__(kProductWarps* kWarpSize) void ProductKernel(
    const __grid_constant__ ProductArgs args) {
  MultiplyExact<kType, kTokens, kFeatures>(args);
}

template <DType kType, int kTokens, int kFeatures>
void LaunchProduct(LaunchContext& context, const ProductArgs& args) {
  const GroupedProduct& p = args.p;
  constexpr int kTile = kProductWarps * kFeatures;
  const int64_t tiles = (p.shape.out_features + kTile - 1) / kTile;
  const int64_t groups = NumGroupTiles(p);
  const int64_t row_tiles =
      HasOwnRows(p) ? 1 : (p.num_rows + kTokens - 1) / kTokens;
  // Thread blocks that share weights are of use only as far as they fill the
  // device some times over.
  const int64_t wanted =
      16 * context.num_multiprocessors() / (tiles * groups) + 1;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(groups),
                  static_cast<unsigned>(std::min(row_tiles, wanted)));
  context.Launch(ProductKernel<kType, kTokens, kFeatures>, grid,
                 kProductWarps * kWarpSize, 0, args);
}

inline bool InputIsAligned(const GroupedProduct& product) {
  return reinterpret_cast<uintptr_t>(product.in) % 16 == 0 &&
         product.in_stride % 4 == 0 && product.in_group_stride % 4 == 0;
}

inline ProductArgs MakeProductArgs(const GroupedProduct& product) {
  const MatrixShape& shape = product.shape;
  const int64_t row_bytes = DTypeBytes(shape.dtype, shape.in_features);
  ProductArgs args;
  args.p = product;
  args.layout.row_bytes = row_bytes;
  args.layout.in_features = shape.in_features;
  args.layout.aligned = shape.aligned && row_bytes % 16 == 0;
  args.layout.scale_rows = shape.scale_rows;
  args.layout.scales_are_e8m0 = shape.scales_are_e8m0;
  if (shape.scale_cols > 0) args.layout.SetScaleColumns(shape.scale_cols);
  args.in_aligned = InputIsAligned(product);
  return args;
}

template <typename Types>
bool RunProductOf(LaunchContext& context, const GroupedProduct& product) {
  return Types::Dispatch(product.shape.dtype, [&]<DType kType>() {
    const ProductArgs args = MakeProductArgs(product);
    if (RowsOfGroup(product) <= 1) {
      LaunchProduct<kType, 1, 2>(context, args);
    } else {
      LaunchProduct<kType, kTokenTile, 4>(context, args);
    }
  });
}

}  // namespace shoal::cuda
