// Eight neighbouring weights of a stored row as f32: the unit in which kernels
// read weights of every type. Eight never cross a scale: the smallest block
// with a scale of its own holds 16 values. The formats are those of
// kernels/quant/dequantize.h, and the values are its values, bit for bit.
#pragma once

#include "kernels/cuda/device_math.cuh"

namespace shoal::cuda {

inline constexpr int kUnit = 8;

namespace decode {

static __device__ const int8_t kIq4Levels[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static __device__ const int8_t kFp4Doubled[16] = {
    0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

__device__ __forceinline__ uint16_t Load16(const uint8_t* at) {
  return *reinterpret_cast<const uint16_t*>(at);
}
__device__ __forceinline__ uint32_t Load32(const uint8_t* at) {
  return Load16(at) | static_cast<uint32_t>(Load16(at + 2)) << 16;
}
__device__ __forceinline__ float E4M3(uint8_t byte) {
  // A half's exponent is one bit wider and its bias 8 more: 2^8 makes it good.
  const uint16_t bits =
      static_cast<uint16_t>((byte & 0x80u) << 8 | (byte & 0x7fu) << 7);
  return (byte & 0x7fu) == 0x7fu ? __uint_as_float(0x7fc00000u)
                                 : WidenF16(bits) * 256.0f;
}

// code - kOffset, exactly: conversions of integers are slow.
template <int kOffset>
__device__ __forceinline__ float CodeToFloat(int code) {
  constexpr float kTwo23 = 8388608.0f;  // the last bit of its mantissa is 1
  return __uint_as_float(0x4b000000u | static_cast<uint32_t>(code)) -
         (kTwo23 + kOffset);
}

// By its magnitude and its sign, so that there is a -0.
__device__ __forceinline__ float E2M1(int nibble) {
  return __uint_as_float(__float_as_uint(kFp4Doubled[nibble & 7] * 0.5f) |
                         static_cast<uint32_t>(nibble & 8) << 28);
}

__device__ __forceinline__ float E8M0(uint8_t byte) {
  if (byte == 0xff) return __uint_as_float(0x7fc00000u);
  if (byte == 0) return __uint_as_float(0x00400000u);
  return __uint_as_float(static_cast<uint32_t>(byte) << 23);
}

}  // namespace decode

// What eight neighbouring weights are made of, as it was loaded: Decode() comes
// later, so that a kernel has the loads of several units under way. Which
// fields are used is the type's affair; the others cost nothing.
template <DType kType>
struct WeightUnit {
  static constexpr int kWords = kType == DType::kF32 ? 8 : 4;

  uint32_t codes[kWords];
  uint32_t high[2];     // further bits of the codes
  uint32_t scale, min;  // of the block, as stored
  uint32_t sub_scale, sub_min;
  float factor;  // of separate scales
};

// What a matrix's rows are beside its data pointer: alike for all of a group.
struct WeightLayout {
  int64_t row_bytes = 0;
  int64_t in_features = 0;
  bool aligned = false;    // rows begin at 16-byte addresses
  int32_t scale_rows = 0;  // 0: no separate scales
  int32_t scale_cols = 0;
  int32_t scales_across = 0;
  bool scales_are_e8m0 = false;
};

template <DType kType>
inline constexpr bool kHasSeparateScales =
    kType == DType::kF8E4M3 || kType == DType::kF8E5M2 ||
    kType == DType::kF4E2M1;

namespace decode {

// Loads of one type; see WeightRow::Fetch(). `row` is the row's first byte.
template <DType kType, bool kWhole>
__device__ __forceinline__ void FetchCodes(const uint8_t* row, int64_t k,
                                           int count, bool aligned,
                                           WeightUnit<kType>& unit) {
  const auto take8 = [&](const uint8_t* at) {
    unit.codes[0] = Load32(at);
    unit.codes[1] = Load32(at + 4);
  };
  // In 32 bits: widths are below 2^31, and 64-bit divisions are slow.
  const auto at32 = static_cast<uint32_t>(k);
  if constexpr (kType == DType::kF32) {
    const auto* x = reinterpret_cast<const uint32_t*>(row) + k;
    if (kWhole || (aligned && count == kUnit)) {
      const uint4 a = *reinterpret_cast<const uint4*>(x);
      const uint4 b = *reinterpret_cast<const uint4*>(x + 4);
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
      const uint4 v = *reinterpret_cast<const uint4*>(x);
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
      const uint2 v = *reinterpret_cast<const uint2*>(row + k);
      unit.codes[0] = v.x;
      unit.codes[1] = v.y;
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
      unit.codes[0] = *reinterpret_cast<const uint32_t*>(row + k / 2);
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
    unit.scale = b[0];
    unit.codes[0] = unit.codes[1] = 0;
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      unit.codes[i / 4] |= static_cast<uint32_t>(b[1 + (at32 & 8) + i])
                           << (8 * (i & 3));
    }
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
    unit.sub_scale = b[at / 16];
    unit.scale = Load16(b + 80);
    unit.min = Load16(b + 82);
    take8(b + 16 + 32 * (at / 128) + at % 32);
  } else if constexpr (kType == DType::kQ3_K) {
    const uint8_t* b = row + at32 / 256 * 110;
    const uint32_t at = at32 % 256;
    const uint32_t s = at / 16;
    unit.sub_scale = b[96 + s % 8];
    unit.sub_min = b[96 + 8 + s % 4];
    unit.scale = Load16(b + 108);
    unit.high[0] = Load32(b + at % 32);
    unit.high[1] = Load32(b + at % 32 + 4);
    take8(b + 32 + 32 * (at / 128) + at % 32);
  } else if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
    constexpr bool kFive = kType == DType::kQ5_K;
    const uint8_t* b = row + at32 / 256 * (kFive ? 176 : 144);
    const uint32_t at = at32 % 256;
    unit.scale = Load16(b);
    unit.min = Load16(b + 2);
    // 6-bit scale and minimum of the sub-block: the bytes they are in.
    const uint8_t* packed = b + 4 + at / 32 % 4;
    unit.sub_scale = packed[0] | static_cast<uint32_t>(packed[4]) << 8 |
                     static_cast<uint32_t>(packed[at < 128 ? 4 : 8]) << 16;
    take8(b + (kFive ? 48 : 16) + 32 * (at / 64) + at % 32);
    if (kFive) {
      unit.high[0] = Load32(b + 16 + at % 32);
      unit.high[1] = Load32(b + 16 + at % 32 + 4);
    }
  } else if constexpr (kType == DType::kQ6_K) {
    const uint8_t* b = row + at32 / 256 * 210;
    const uint32_t at = at32 % 256;
    unit.scale = Load16(b + 208);
    unit.sub_scale = b[192 + at / 16];
    take8(b + 64 * (at / 128) + at % 64);
    unit.high[0] = Load32(b + 128 + 32 * (at / 128) + at % 32);
    unit.high[1] = Load32(b + 128 + 32 * (at / 128) + at % 32 + 4);
  } else {
    static_assert(kType == DType::kIQ4_XS);
    const uint8_t* b = row + at32 / 256 * 136;
    const uint32_t s = at32 % 256 / 32;
    unit.scale = Load16(b);
    unit.sub_scale = b[4 + s / 2];
    unit.sub_min = Load16(b + 2);
    take8(b + 8 + 16 * s + (at32 & 8));
  }
}

}  // namespace decode

// The eight weights from `k` on that `unit` was fetched for.
template <DType kType>
__device__ __forceinline__ void Decode(const WeightUnit<kType>& unit, int64_t k,
                                       float* w) {
  using namespace decode;  // NOLINT: readers of one format
  const auto byte = [&](int i) {
    return static_cast<int>(unit.codes[i / 4] >> (8 * (i & 3)) & 0xff);
  };
  const auto high_byte = [&](int i) {
    return static_cast<int>(unit.high[i / 4] >> (8 * (i & 3)) & 0xff);
  };
  const auto half = [](uint32_t bits) {
    return WidenF16(static_cast<uint16_t>(bits));
  };
  const int at = static_cast<int>(k & 255);
  // Where a block of 32 holds its second half in the upper nibbles.
  const int shift = at % 32 < 16 ? 0 : 4;
  if constexpr (kType == DType::kF32) {
#pragma unroll
    for (int i = 0; i < kUnit; ++i) w[i] = __uint_as_float(unit.codes[i]);
  } else if constexpr (kType == DType::kF16 || kType == DType::kBF16) {
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      const auto bits =
          static_cast<uint16_t>(unit.codes[i / 2] >> (16 * (i & 1)));
      w[i] = kType == DType::kF16 ? WidenF16(bits) : WidenBF16(bits);
    }
  } else if constexpr (kType == DType::kF8E4M3) {
#pragma unroll
    for (int i = 0; i < kUnit; ++i) w[i] = E4M3(static_cast<uint8_t>(byte(i)));
  } else if constexpr (kType == DType::kF8E5M2) {
#pragma unroll
    for (int i = 0; i < kUnit; ++i) w[i] = half(byte(i) << 8);
  } else if constexpr (kType == DType::kF4E2M1) {
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      w[i] = E2M1(static_cast<int>(unit.codes[0] >> (4 * i) & 15));
    }
  } else if constexpr (kType == DType::kMXFP4) {
    // 2^(e - 128): one below E8M0's value because the levels are doubled.
    const float d = __uint_as_float(unit.scale < 2 ? 0x00200000u << unit.scale
                                                   : (unit.scale - 1) << 23);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      w[i] = d * kFp4Doubled[byte(i) >> shift & 15];
    }
  } else if constexpr (kType == DType::kQ4_0 || kType == DType::kIQ4_NL) {
    const float d = half(unit.scale);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      const int nibble = byte(i) >> shift & 15;
      w[i] = d * (kType == DType::kQ4_0 ? CodeToFloat<8>(nibble)
                                        : kIq4Levels[nibble]);
    }
  } else if constexpr (kType == DType::kQ4_1) {
    const float d = half(unit.scale);
    const float m = half(unit.min);
#pragma unroll
    for (int i = 0; i < kUnit; ++i)
      w[i] = d * CodeToFloat<0>(byte(i) >> shift & 15) + m;
  } else if constexpr (kType == DType::kQ5_0 || kType == DType::kQ5_1) {
    constexpr bool kMin = kType == DType::kQ5_1;
    const float d = half(unit.scale);
    const float m = kMin ? half(unit.min) : 0.0f;
    const uint32_t fifth = unit.high[0] >> (at % 32);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      const int code =
          (byte(i) >> shift & 15) | static_cast<int>(fifth >> i & 1) << 4;
      w[i] = kMin ? d * CodeToFloat<0>(code) + m : d * CodeToFloat<16>(code);
    }
  } else if constexpr (kType == DType::kQ8_0) {
    const float d = half(unit.scale);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) w[i] = d * CodeToFloat<128>(byte(i) ^ 0x80);
  } else if constexpr (kType == DType::kQ2_K) {
    const float scale =
        half(unit.scale) * static_cast<int>(unit.sub_scale & 15);
    const float min = half(unit.min) * static_cast<int>(unit.sub_scale >> 4);
    const int pair = 2 * (at % 128 / 32);
#pragma unroll
    for (int i = 0; i < kUnit; ++i)
      w[i] = scale * CodeToFloat<0>(byte(i) >> pair & 3) - min;
  } else if constexpr (kType == DType::kQ3_K) {
    const int s = at / 16;
    const int low = static_cast<int>(unit.sub_scale >> (s < 8 ? 0 : 4) & 15);
    const int high = static_cast<int>(unit.sub_min >> (2 * (s / 4)) & 3);
    const float scale = half(unit.scale) * ((low | high << 4) - 32);
    const int pair = 2 * (at % 128 / 32);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      const int code =
          (byte(i) >> pair & 3) - (high_byte(i) >> (at / 32) & 1 ? 0 : 4);
      w[i] = scale * code;
    }
  } else if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
    const uint32_t first = unit.sub_scale & 0xff;
    const uint32_t fourth = unit.sub_scale >> 8 & 0xff;
    const uint32_t eighth = unit.sub_scale >> 16;
    const uint32_t s = at < 128 ? first & 63 : (eighth & 15) | first >> 6 << 4;
    const uint32_t m = at < 128 ? fourth & 63 : eighth >> 4 | fourth >> 6 << 4;
    const float scale = half(unit.scale) * static_cast<int>(s);
    const float min = half(unit.min) * static_cast<int>(m);
    const int nibble = at / 32 % 2 * 4;
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      int code = byte(i) >> nibble & 15;
      if (kType == DType::kQ5_K) code |= (high_byte(i) >> (at / 32) & 1) << 4;
      w[i] = scale * CodeToFloat<0>(code) - min;
    }
  } else if constexpr (kType == DType::kQ6_K) {
    const int j = at % 128 / 32;
    const float scale = half(unit.scale) * static_cast<int8_t>(unit.sub_scale);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      const int code = (byte(i) >> (j < 2 ? 0 : 4) & 15) |
                       (high_byte(i) >> (2 * j) & 3) << 4;
      w[i] = scale * CodeToFloat<32>(code);
    }
  } else {
    static_assert(kType == DType::kIQ4_XS);
    const int s = at / 32;
    const int low = static_cast<int>(unit.sub_scale >> (4 * (s & 1)) & 15);
    const int high = static_cast<int>(unit.sub_min >> (2 * s) & 3);
    const float scale = half(unit.scale) * ((low | high << 4) - 32);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      w[i] = scale * kIq4Levels[byte(i) >> shift & 15];
    }
  }
  if constexpr (kHasSeparateScales<kType>) {
#pragma unroll
    for (int i = 0; i < kUnit; ++i) w[i] *= unit.factor;
  }
}

// Types whose blocks of 32 a lane reads as one.
template <DType kType>
inline constexpr bool kHasBlocks32 =
    kType == DType::kQ4_0 || kType == DType::kQ4_1 || kType == DType::kQ5_0 ||
    kType == DType::kQ5_1 || kType == DType::kQ8_0 || kType == DType::kIQ4_NL;

// Types of blocks read by the byte, in units of eight weights.
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
  // weights. kWhole: none are, and rows are aligned. REQUIRES: k a multiple of
  // 8.
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
      unit.factor = 1;
      if (layout.scale_rows > 0) {
        const uint32_t at =
            static_cast<uint32_t>(k) / static_cast<uint32_t>(layout.scale_cols);
        unit.factor = layout.scales_are_e8m0
                          ? decode::E8M0(scales[at])
                          : reinterpret_cast<const float*>(scales)[at];
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
