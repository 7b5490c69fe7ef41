// What the kernels of products on the tensor cores share (linear_tensor.cuh):
// whose rows and features a thread block has, and the steps in which sums are
// made.
#pragma once

#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace shoal::cuda {

inline constexpr int kSegments = 8;
inline constexpr int kStep = 4 * kUnit;

// Where results of one feature go, of rows from `row` on.
struct FeatureOut {
  float* at;
  float bias;
  int32_t count;  // rows that are there, 0 where the feature is not
  int32_t stride;
  bool accumulate;

  __device__ __forceinline__ FeatureOut(const GroupedProduct& p,
                                        const GroupRows& rows, int64_t row,
                                        int64_t feature)
      : at(p.out + (rows.first + row) * p.out_stride +
           rows.group * p.out_group_stride + feature),
        bias(-0.0f),  // changes nothing
        count(0),
        stride(static_cast<int32_t>(p.out_stride)),
        accumulate(p.accumulate) {
    if (feature >= p.shape.out_features) return;
    if (p.bias != nullptr) bias = p.bias[feature];
    constexpr int64_t kMostRows = 1024;  // of a tile
    const int64_t left = rows.count - row;
    count = static_cast<int32_t>(left < kMostRows ? left : kMostRows);
  }

  // `row` counts from the first one.
  __device__ __forceinline__ void Write(int32_t row, float value) const {
    if (row >= count) return;
    float* out = at + row * int64_t{stride};
    value += bias;
    *out = accumulate ? *out + value : value;
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
// scale · code of signed codes of up to five bits, rounded once: two in each
// register from the first byte on. The part of the scale that bf16 has not is
// of three bits, and a product with it exact.
template <int kOffset>
__device__ __forceinline__ uint4 ScaledPairs(const uint32_t (&codes)[2],
                                             float scale) {
  constexpr uint32_t k128 = 0x43434343u;  // of two, above bytes
  constexpr uint32_t kZero = 0xc300c300u | kOffset << 16 | kOffset;
  const uint32_t upper = PackBF16(scale, scale);
  const float rest = scale - __uint_as_float(upper & 0xffff0000u);
  const uint32_t lower = PackBF16(rest, rest);
  uint32_t out[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t bytes =
        __byte_perm(codes[i / 2], k128, i % 2 == 0 ? 0x4140 : 0x4342);
    constexpr uint32_t kOnes = 0x3f803f80u, kMinusZeros = 0x80008000u;
    const uint32_t code = FmaBF16x2(bytes, kOnes, kZero);
    out[i] = FmaBF16x2(code, upper, FmaBF16x2(code, lower, kMinusZeros));
  }
  return {out[0], out[1], out[2], out[3]};
}
template <DType kType>
__device__ __forceinline__ uint4 DecodeBF16(const WeightUnit<kType>& unit,
                                            int64_t k) {
  if constexpr (kType == DType::kBF16) {
    return {unit.codes[0], unit.codes[1], unit.codes[2], unit.codes[3]};
  } else if constexpr (kType == DType::kQ4_0 || kType == DType::kQ5_0) {
    const decode::CodedWeights<kType> coded(unit, k);
    return ScaledPairs<decode::CodedWeights<kType>::kOffset>(coded.codes,
                                                             coded.scale);
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

// Where the block of 32 begins that unit `unit` of four steps from `step` on
// has.
__device__ __forceinline__ int32_t BlockAt(int32_t step, int unit) {
  return step / 4 * 4 * kStep + unit * 4 * kUnit;
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
  ProductArgs parts[kMostParts + 1];  // two pairs, or parts of one input
  int32_t first_tile[kMostParts] = {};
  int32_t num_parts = 0;  // that have tiles of their own
  // The part that the last row of blocks, in y, has to itself; 0: none.
  int32_t beside = 0;
  unsigned* counters = nullptr;  // LaunchContext::counters(), for sums

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
  __device__ __forceinline__ bool IsBeside() const {
    return beside > 0 && blockIdx.y + 1 == gridDim.y;
  }
};

}  // namespace shoal::cuda
