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
__device__ __forceinline__ float Half(const uint8_t* at) {
  return WidenF16(Load16(at));
}

// Bytes [0, 8) of an address that is even.
struct Bytes8 {
  uint32_t low, high;
  __device__ __forceinline__ explicit Bytes8(const uint8_t* at)
      : low(Load32(at)), high(Load32(at + 4)) {}
  __device__ __forceinline__ int operator[](int i) const {
    return ((i < 4 ? low : high) >> (8 * (i & 3))) & 0xff;
  }
};

__device__ __forceinline__ float E4M3(uint8_t byte) {
  // A half's exponent is one bit wider and its bias 8 more: 2^8 makes it good.
  const uint16_t bits =
      static_cast<uint16_t>((byte & 0x80u) << 8 | (byte & 0x7fu) << 7);
  return (byte & 0x7fu) == 0x7fu ? __uint_as_float(0x7fc00000u)
                                 : WidenF16(bits) * 256.0f;
}

// By its magnitude and its sign, so that there is a -0.
__device__ __forceinline__ float E2M1(int nibble) {
  return __uint_as_float(__float_as_uint(kFp4Doubled[nibble & 7] * 0.5f) |
                         static_cast<uint32_t>(nibble & 8) << 28);
}

// 6-bit scale and minimum of sub-block i of Q4_K and Q5_K.
__device__ __forceinline__ void K4Scale(const uint8_t* packed, int i,
                                        int* scale, int* min) {
  if (i < 4) {
    *scale = packed[i] & 63;
    *min = packed[i + 4] & 63;
  } else {
    *scale = (packed[i + 4] & 15) | (packed[i - 4] >> 6) << 4;
    *min = packed[i + 4] >> 4 | (packed[i] >> 6) << 4;
  }
}

__device__ __forceinline__ float E8M0(uint8_t byte) {
  if (byte == 0xff) return __uint_as_float(0x7fc00000u);
  if (byte == 0) return __uint_as_float(0x00400000u);
  return __uint_as_float(static_cast<uint32_t>(byte) << 23);
}

}  // namespace decode

// Weights [k, k + 8) of the row at `row`; of plain types (blocks of one or two
// values) only the first `count`, the rest zero. `aligned`: 16-byte loads of
// plain types are possible. REQUIRES: k a multiple of 8.
template <DType kType>
__device__ __forceinline__ void Decode8(const uint8_t* row, int64_t k,
                                        int count, bool aligned, float* w) {
  using namespace decode;  // NOLINT: readers of one format
  if constexpr (kType == DType::kF32) {
    const auto* x = reinterpret_cast<const float*>(row) + k;
    if (aligned && count == kUnit) {
      const float4 a = *reinterpret_cast<const float4*>(x);
      const float4 b = *reinterpret_cast<const float4*>(x + 4);
      w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w;
      w[4] = b.x, w[5] = b.y, w[6] = b.z, w[7] = b.w;
    } else {
#pragma unroll
      for (int i = 0; i < kUnit; ++i) w[i] = i < count ? x[i] : 0.0f;
    }
  } else if constexpr (kType == DType::kF16 || kType == DType::kBF16) {
    const auto widen = [](uint32_t bits) {
      const auto half = static_cast<uint16_t>(bits);
      return kType == DType::kF16 ? WidenF16(half) : WidenBF16(half);
    };
    const auto* x = reinterpret_cast<const uint16_t*>(row) + k;
    if (aligned && count == kUnit) {
      const uint4 v = *reinterpret_cast<const uint4*>(x);
      w[0] = widen(v.x & 0xffffu), w[1] = widen(v.x >> 16);
      w[2] = widen(v.y & 0xffffu), w[3] = widen(v.y >> 16);
      w[4] = widen(v.z & 0xffffu), w[5] = widen(v.z >> 16);
      w[6] = widen(v.w & 0xffffu), w[7] = widen(v.w >> 16);
    } else {
#pragma unroll
      for (int i = 0; i < kUnit; ++i) w[i] = i < count ? widen(x[i]) : 0.0f;
    }
  } else if constexpr (kType == DType::kF8E4M3 || kType == DType::kF8E5M2) {
    const auto widen = [](int byte) {
      return kType == DType::kF8E4M3
                 ? E4M3(static_cast<uint8_t>(byte))
                 : WidenF16(static_cast<uint16_t>(byte << 8));
    };
    if (aligned && count == kUnit) {
      const uint2 v = *reinterpret_cast<const uint2*>(row + k);
#pragma unroll
      for (int i = 0; i < kUnit; ++i) {
        w[i] = widen((i < 4 ? v.x : v.y) >> (8 * (i & 3)) & 0xff);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kUnit; ++i) w[i] = i < count ? widen(row[k + i]) : 0;
    }
  } else if constexpr (kType == DType::kF4E2M1) {
#pragma unroll
    for (int i = 0; i < kUnit; i += 2) {
      const int byte = i < count ? row[(k + i) / 2] : 0;
      w[i] = E2M1(byte & 15);
      w[i + 1] = E2M1(byte >> 4);
    }
  } else if constexpr (kType == DType::kMXFP4) {
    const uint8_t* b = row + k / 32 * 17;
    const int at = static_cast<int>(k % 32);
    // 2^(e - 128): one below E8M0's value because the levels are doubled.
    const float d = __uint_as_float(
        b[0] < 2 ? 0x00200000u << b[0] : static_cast<uint32_t>(b[0] - 1) << 23);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      const int byte = b[1 + (at & 8) + i];
      w[i] = d * kFp4Doubled[at < 16 ? byte & 15 : byte >> 4];
    }
  } else if constexpr (kType == DType::kQ4_0 || kType == DType::kIQ4_NL) {
    const uint8_t* b = row + k / 32 * 18;
    const int at = static_cast<int>(k % 32);
    const float d = Half(b);
    const Bytes8 q(b + 2 + (at & 8));
    const int shift = at < 16 ? 0 : 4;
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      const int nibble = q[i] >> shift & 15;
      w[i] = d * (kType == DType::kQ4_0 ? nibble - 8 : kIq4Levels[nibble]);
    }
  } else if constexpr (kType == DType::kQ4_1) {
    const uint8_t* b = row + k / 32 * 20;
    const int at = static_cast<int>(k % 32);
    const float d = Half(b);
    const float m = Half(b + 2);
    const Bytes8 q(b + 4 + (at & 8));
    const int shift = at < 16 ? 0 : 4;
#pragma unroll
    for (int i = 0; i < kUnit; ++i) w[i] = d * (q[i] >> shift & 15) + m;
  } else if constexpr (kType == DType::kQ5_0 || kType == DType::kQ5_1) {
    constexpr bool kMin = kType == DType::kQ5_1;
    const uint8_t* b = row + k / 32 * (kMin ? 24 : 22);
    const int at = static_cast<int>(k % 32);
    const float d = Half(b);
    const float m = kMin ? Half(b + 2) : 0.0f;
    const uint32_t high = Load32(b + (kMin ? 4 : 2)) >> at;
    const Bytes8 q(b + (kMin ? 8 : 6) + (at & 8));
    const int shift = at < 16 ? 0 : 4;
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      const int code = (q[i] >> shift & 15) | static_cast<int>(high >> i & 1)
                                                  << 4;
      w[i] = kMin ? d * code + m : d * (code - 16);
    }
  } else if constexpr (kType == DType::kQ8_0) {
    const uint8_t* b = row + k / 32 * 34;
    const float d = Half(b);
    const Bytes8 q(b + 2 + k % 32);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) w[i] = d * static_cast<int8_t>(q[i]);
  } else if constexpr (kType == DType::kQ2_K) {
    const uint8_t* b = row + k / 256 * 84;
    const int at = static_cast<int>(k % 256);
    const int sc = b[at / 16];
    const float scale = Half(b + 80) * (sc & 15);
    const float min = Half(b + 82) * (sc >> 4);
    const Bytes8 q(b + 16 + 32 * (at / 128) + at % 32);
    const int shift = 2 * (at % 128 / 32);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) w[i] = scale * (q[i] >> shift & 3) - min;
  } else if constexpr (kType == DType::kQ3_K) {
    const uint8_t* b = row + k / 256 * 110;
    const int at = static_cast<int>(k % 256);
    const int s = at / 16;
    const int low = s < 8 ? b[96 + s] & 15 : b[96 + s - 8] >> 4;
    const int high = b[96 + 8 + s % 4] >> (2 * (s / 4)) & 3;
    const float scale = Half(b + 108) * ((low | high << 4) - 32);
    const Bytes8 mask(b + at % 32);
    const Bytes8 q(b + 32 + 32 * (at / 128) + at % 32);
    const int shift = 2 * (at % 128 / 32);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      const int code = (q[i] >> shift & 3) - (mask[i] >> (at / 32) & 1 ? 0 : 4);
      w[i] = scale * code;
    }
  } else if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
    constexpr bool kFive = kType == DType::kQ5_K;
    const uint8_t* b = row + k / 256 * (kFive ? 176 : 144);
    const int at = static_cast<int>(k % 256);
    int s, m;
    K4Scale(b + 4, at / 32, &s, &m);
    const float scale = Half(b) * s;
    const float min = Half(b + 2) * m;
    const Bytes8 q(b + (kFive ? 48 : 16) + 32 * (at / 64) + at % 32);
    const Bytes8 fifth(b + 16 + at % 32);
    const int shift = at / 32 % 2 * 4;
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      int code = q[i] >> shift & 15;
      if (kFive) code |= (fifth[i] >> (at / 32) & 1) << 4;
      w[i] = scale * code - min;
    }
  } else if constexpr (kType == DType::kQ6_K) {
    const uint8_t* b = row + k / 256 * 210;
    const int at = static_cast<int>(k % 256);
    const int j = at % 128 / 32;
    const float scale = Half(b + 208) * static_cast<int8_t>(b[192 + at / 16]);
    const Bytes8 low(b + 64 * (at / 128) + 32 * (j & 1) + at % 32);
    const Bytes8 high(b + 128 + 32 * (at / 128) + at % 32);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      const int code =
          (low[i] >> (j < 2 ? 0 : 4) & 15) | (high[i] >> (2 * j) & 3) << 4;
      w[i] = scale * (code - 32);
    }
  } else {
    static_assert(kType == DType::kIQ4_XS);
    const uint8_t* b = row + k / 256 * 136;
    const int at = static_cast<int>(k % 256);
    const int s = at / 32;
    const int low = b[4 + s / 2] >> (4 * (s & 1)) & 15;
    const int high = Load16(b + 2) >> (2 * s) & 3;
    const float scale = Half(b) * ((low | high << 4) - 32);
    const Bytes8 q(b + 8 + 16 * s + (at & 8));
    const int shift = at % 32 < 16 ? 0 : 4;
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      w[i] = scale * kIq4Levels[q[i] >> shift & 15];
    }
  }
}

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

// Weights [k, k + 8) of row `row`, separate scales applied, zeros past the end.
template <DType kType>
__device__ __forceinline__ void LoadWeights8(const uint8_t* data,
                                             const uint8_t* scales,
                                             const WeightLayout& layout,
                                             int64_t row, int64_t k, float* w) {
  const int64_t left = layout.in_features - k;
  const int count = left < kUnit ? static_cast<int>(left) : kUnit;
  Decode8<kType>(data + row * layout.row_bytes, k, count, layout.aligned, w);
  if constexpr (kType == DType::kF8E4M3 || kType == DType::kF8E5M2 ||
                kType == DType::kF4E2M1) {
    if (layout.scale_rows > 0) {
      const int64_t at = row / layout.scale_rows * layout.scales_across +
                         k / layout.scale_cols;
      const float scale = layout.scales_are_e8m0
                              ? decode::E8M0(scales[at])
                              : reinterpret_cast<const float*>(scales)[at];
#pragma unroll
      for (int i = 0; i < kUnit; ++i) w[i] *= scale;
    }
  }
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
