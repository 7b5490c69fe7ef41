// Rows of matrices as they are stored, read in units of eight weights
// (weight_unit.cuh).
#pragma once

#include "kernels/cuda/weight_unit.cuh"

namespace shoal::cuda {

namespace decode {

// Weights are only read while a kernel runs.
template <typename T>
__device__ __forceinline__ T LoadAs(const void* at) {
  return __ldg(static_cast<const T*>(at));
}
__device__ __forceinline__ uint16_t Load16(const uint8_t* at) {
  return LoadAs<uint16_t>(at);
}
__device__ __forceinline__ uint32_t Load32(const uint8_t* at) {
  return Load16(at) | static_cast<uint32_t>(Load16(at + 2)) << 16;
}

}  // namespace decode

// What a matrix's rows are beside its data pointer: alike for all of a group.
struct WeightLayout {
  int64_t row_bytes = 0;
  int64_t in_features = 0;
  bool aligned = false;    // rows begin at 16-byte addresses
  int32_t scale_rows = 0;  // 0: no separate scales
  int32_t scales_across = 0;
  bool scales_are_e8m0 = false;
  uint32_t fours_to_scales = 0;

  // Every `scale_cols` (a multiple of 8) weights of a row of `in_features` have
  // a scale, in a row of them.
  void SetScaleColumns(int64_t scale_cols) {
    const auto fours = static_cast<uint64_t>(scale_cols / 4);
    fours_to_scales =
        static_cast<uint32_t>(((uint64_t{1} << 32) + fours - 1) / fours);
    scales_across =
        static_cast<int32_t>((in_features + scale_cols - 1) / scale_cols);
  }
  // k / scale_cols without a division: exact while k · scale_cols < 2^36.
  __device__ __forceinline__ uint32_t ScaleColumn(uint32_t k) const {
    return __umulhi(k / 4, fours_to_scales);
  }
};

namespace decode {

// What scale and minimum of sub-block `sub` are in, of six bits each, from the
// first 16 bytes of a block of Q4_K or Q5_K: a byte of each of three words.
__device__ __forceinline__ uint32_t SubScale(const uint4& head, uint32_t sub) {
  const uint32_t part = 8 * (sub % 4);
  return (head.y >> part & 0xff) | (head.z >> part & 0xff) << 8 |
         ((sub < 4 ? head.z : head.w) >> part & 0xff) << 16;
}

// Loads of one type; see WeightRow::Fetch(). `row` is the row's first byte.
template <DType kType, bool kWhole>
__device__ __forceinline__ void FetchCodes(const uint8_t* row, int64_t k,
                                           int count, bool aligned,
                                           WeightUnit<kType>& unit) {
  const auto take8 = [&](const uint8_t* at) {
    unit.codes[0] = Load32(at);
    unit.codes[1] = Load32(at + 4);
  };
  const auto take_aligned = [&](const uint8_t* at) {
    const auto v = LoadAs<uint2>(at);
    unit.codes[0] = v.x;
    unit.codes[1] = v.y;
  };
  // In 32 bits: widths are below 2^31, and 64-bit divisions are slow.
  const auto at32 = static_cast<uint32_t>(k);
  if constexpr (kType == DType::kF32) {
    const auto* x = reinterpret_cast<const uint32_t*>(row) + k;
    if (kWhole || (aligned && count == kUnit)) {
      const auto a = LoadAs<uint4>(x);
      const auto b = LoadAs<uint4>(x + 4);
      unit.codes[0] = a.x, unit.codes[1] = a.y;
      unit.codes[2] = a.z, unit.codes[3] = a.w;
      unit.codes[4] = b.x, unit.codes[5] = b.y;
      unit.codes[6] = b.z, unit.codes[7] = b.w;
    } else {
#pragma unroll
      for (int i = 0; i < kUnit; ++i) unit.codes[i] = i < count ? x[i] : 0;
    }
  } else if constexpr (kType == DType::kF16 || kType == DType::kBF16) {
    const auto* x = reinterpret_cast<const uint16_t*>(row) + k;
    if (kWhole || (aligned && count == kUnit)) {
      const auto v = LoadAs<uint4>(x);
      unit.codes[0] = v.x, unit.codes[1] = v.y;
      unit.codes[2] = v.z, unit.codes[3] = v.w;
    } else {
#pragma unroll
      for (int i = 0; i < kUnit; i += 2) {
        const uint32_t low = i < count ? x[i] : 0;
        const uint32_t high = i + 1 < count ? x[i + 1] : 0;
        unit.codes[i / 2] = low | high << 16;
      }
    }
  } else if constexpr (kType == DType::kF8E4M3 || kType == DType::kF8E5M2) {
    if (kWhole || (aligned && count == kUnit)) {
      take_aligned(row + k);
    } else {
      unit.codes[0] = unit.codes[1] = 0;
#pragma unroll
      for (int i = 0; i < kUnit; ++i) {
        const uint32_t byte = i < count ? row[k + i] : 0;
        unit.codes[i / 4] |= byte << (8 * (i & 3));
      }
    }
  } else if constexpr (kType == DType::kF4E2M1) {
    if (kWhole) {
      unit.codes[0] = LoadAs<uint32_t>(row + k / 2);
    } else {
      unit.codes[0] = 0;
#pragma unroll
      for (int i = 0; i < kUnit; i += 2) {
        const uint32_t byte = i < count ? row[(k + i) / 2] : 0;
        unit.codes[0] |= byte << (4 * i);
      }
    }
  } else if constexpr (kType == DType::kMXFP4) {
    const uint8_t* b = row + at32 / 32 * 17;
    unit.scale = LoadAs<uint8_t>(b);
    // Eight bytes at any address, by words that have some of them.
    const uint8_t* from = b + 1 + (at32 & 8);
    const auto odd =
        static_cast<uint32_t>(reinterpret_cast<uintptr_t>(from) & 3);
    const uint8_t* words = from - odd;
    const auto middle = LoadAs<uint32_t>(words + 4);
    const uint32_t last = odd > 0 ? LoadAs<uint32_t>(words + 8) : 0;
    unit.codes[0] = __funnelshift_r(LoadAs<uint32_t>(words), middle, 8 * odd);
    unit.codes[1] = __funnelshift_r(middle, last, 8 * odd);
  } else if constexpr (kType == DType::kQ4_0 || kType == DType::kIQ4_NL) {
    const uint8_t* b = row + at32 / 32 * 18;
    unit.scale = Load16(b);
    take8(b + 2 + (at32 & 8));
  } else if constexpr (kType == DType::kQ4_1) {
    const uint8_t* b = row + at32 / 32 * 20;
    unit.scale = Load16(b);
    unit.min = Load16(b + 2);
    take8(b + 4 + (at32 & 8));
  } else if constexpr (kType == DType::kQ5_0 || kType == DType::kQ5_1) {
    constexpr bool kMin = kType == DType::kQ5_1;
    const uint8_t* b = row + at32 / 32 * (kMin ? 24 : 22);
    unit.scale = Load16(b);
    if (kMin) unit.min = Load16(b + 2);
    unit.high[0] = Load32(b + (kMin ? 4 : 2));
    take8(b + (kMin ? 8 : 6) + (at32 & 8));
  } else if constexpr (kType == DType::kQ8_0) {
    const uint8_t* b = row + at32 / 32 * 34;
    unit.scale = Load16(b);
    take8(b + 2 + at32 % 32);
  } else if constexpr (kType == DType::kQ2_K) {
    const uint8_t* b = row + at32 / 256 * 84;
    const uint32_t at = at32 % 256;
    unit.sub_scale = LoadAs<uint8_t>(b + at / 16);
    unit.scale = Load16(b + 80);
    unit.min = Load16(b + 82);
    take8(b + 16 + 32 * (at / 128) + at % 32);
  } else if constexpr (kType == DType::kQ3_K) {
    const uint8_t* b = row + at32 / 256 * 110;
    const uint32_t at = at32 % 256;
    const uint32_t s = at / 16;
    unit.sub_scale = LoadAs<uint8_t>(b + 96 + s % 8);
    unit.sub_min = LoadAs<uint8_t>(b + 96 + 8 + s % 4);
    unit.scale = Load16(b + 108);
    unit.high[0] = Load32(b + at % 32);
    unit.high[1] = Load32(b + at % 32 + 4);
    take8(b + 32 + 32 * (at / 128) + at % 32);
  } else if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
    constexpr bool kFive = kType == DType::kQ5_K;
    const uint8_t* b = row + at32 / 256 * (kFive ? 176 : 144);
    const uint32_t at = at32 % 256;
    const auto head = LoadAs<uint4>(b);
    unit.scale = head.x & 0xffff;
    unit.min = head.x >> 16;
    unit.sub_scale = SubScale(head, at / 32);
    take_aligned(b + (kFive ? 48 : 16) + 32 * (at / 64) + at % 32);
    if (kFive) {
      const auto high = LoadAs<uint2>(b + 16 + at % 32);
      unit.high[0] = high.x;
      unit.high[1] = high.y;
    }
  } else if constexpr (kType == DType::kQ6_K) {
    const uint8_t* b = row + at32 / 256 * 210;
    const uint32_t at = at32 % 256;
    unit.scale = Load16(b + 208);
    unit.sub_scale = LoadAs<uint8_t>(b + 192 + at / 16);
    take8(b + 64 * (at / 128) + at % 64);
    unit.high[0] = Load32(b + 128 + 32 * (at / 128) + at % 32);
    unit.high[1] = Load32(b + 128 + 32 * (at / 128) + at % 32 + 4);
  } else {
    static_assert(kType == DType::kIQ4_XS);
    const uint8_t* b = row + at32 / 256 * 136;
    const uint32_t s = at32 % 256 / 32;
    unit.scale = Load16(b);
    unit.sub_scale = LoadAs<uint8_t>(b + 4 + s / 2);
    unit.sub_min = Load16(b + 2);
    take_aligned(b + 8 + 16 * s + (at32 & 8));
  }
}

}  // namespace decode

// Types whose blocks of 32, or sub-blocks, a lane reads as one.
template <DType kType>
inline constexpr bool kHasBlocks32 =
    kType == DType::kQ4_0 || kType == DType::kQ4_1 || kType == DType::kQ5_0 ||
    kType == DType::kQ5_1 || kType == DType::kQ8_0 || kType == DType::kIQ4_NL ||
    kType == DType::kQ4_K || kType == DType::kQ5_K || kType == DType::kQ6_K;

// Types of blocks read in units of eight weights, by the byte.
template <DType kType>
inline constexpr bool kHasLargeBlocks =
    !kHasSeparateScales<kType> && !kHasBlocks32<kType> &&
    kType != DType::kF32 && kType != DType::kF16 && kType != DType::kBF16;

// A row of a matrix, read in units of eight.
template <DType kType>
struct WeightRow {
  const uint8_t* data;
  const uint8_t* scales;

  WeightRow() = default;
  __device__ __forceinline__ WeightRow(const uint8_t* matrix,
                                       const uint8_t* matrix_scales,
                                       const WeightLayout& layout, int64_t row)
      : data(matrix + row * layout.row_bytes), scales(matrix_scales) {
    if constexpr (kHasSeparateScales<kType>) {
      if (layout.scale_rows > 0) {
        scales += static_cast<uint32_t>(row) /
                  static_cast<uint32_t>(layout.scale_rows) *
                  int64_t{layout.scales_across} *
                  (layout.scales_are_e8m0 ? 1 : 4);
      }
    }
  }

  // Weights [k, k + 8). Past the end: zeros, or, of a type that has blocks, any
  // weights. kWhole: none are, rows are aligned, and scales are as
  // KernelTable::Pack() leaves them: there, in f32 for FP8. REQUIRES: k a
  // multiple of 8.
  template <bool kWhole>
  __device__ __forceinline__ WeightUnit<kType> Fetch(const WeightLayout& layout,
                                                     int64_t k) const {
    WeightUnit<kType> unit;
    if constexpr (!kWhole && kHasBlocks32<kType>) {
      if (k >= layout.in_features) k = layout.in_features - 32 + k % 32;
    }
    const int64_t left = layout.in_features - k;
    const int count = left < kUnit ? static_cast<int>(left) : kUnit;
    decode::FetchCodes<kType, kWhole>(data, k, count, layout.aligned, unit);
    if constexpr (kHasSeparateScales<kType>) {
      // Zeros behind the row's end have the scale of its begin.
      const uint32_t at =
          layout.ScaleColumn(static_cast<uint32_t>(kWhole || left > 0 ? k : 0));
      if (!kWhole && layout.scale_rows == 0) {
        unit.factor = 1;
      } else if (!(kWhole && kIsFp8<kType>)&&layout.scales_are_e8m0) {
        unit.factor = decode::E8M0(decode::LoadAs<uint8_t>(scales + at));
      } else {
        unit.factor = decode::LoadAs<float>(scales + 4 * at);
      }
    }
    return unit;
  }
};

// Weights [k, k + 8) of row `row`, separate scales applied, zeros past the end.
template <DType kType>
__device__ __forceinline__ void LoadWeights8(const uint8_t* data,
                                             const uint8_t* scales,
                                             const WeightLayout& layout,
                                             int64_t row, int64_t k, float* w) {
  const WeightRow<kType> weights(data, scales, layout, row);
  Decode(weights.template Fetch<false>(layout, k), k, w);
}

// Calls `function` with a constant of the DType that `dtype` is at run time.
// False for a type that is no weight.
template <DType... kTypes>
struct DTypeList {
  template <typename Function>
  static bool Dispatch(DType dtype, const Function& function) {
    return ((dtype == kTypes ? (function.template operator()<kTypes>(), true)
                             : false) ||
            ...);
  }
};
using PlainTypes = DTypeList<DType::kF32, DType::kF16, DType::kBF16>;
using HalfTypes = DTypeList<DType::kF16, DType::kBF16>;
using ScaledTypes = DTypeList<DType::kF8E4M3, DType::kF8E5M2, DType::kF4E2M1>;
using Block32Types =
    DTypeList<DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
              DType::kQ8_0, DType::kIQ4_NL, DType::kMXFP4>;
using Block256Types = DTypeList<DType::kQ2_K, DType::kQ3_K, DType::kQ4_K,
                                DType::kQ5_K, DType::kQ6_K, DType::kIQ4_XS>;

}  // namespace shoal::cuda
