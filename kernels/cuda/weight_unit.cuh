// What eight neighbouring weights of a stored row are made of, as it was
// loaded, and their values: the unit in which kernels read weights of every
// type. Eight never cross a scale: the smallest block with a scale of its own
// holds 16 values. The formats are those of kernels/quant/dequantize.h, and the
// values are its values, bit for bit.
#pragma once

#include "kernels/cuda/device_math.cuh"

namespace shoal::cuda {

inline constexpr int kUnit = 8;

namespace decode {

// Levels of four bits as bytes, the first in the lowest, plus 128.
struct Levels {
  uint32_t words[4];
};
inline constexpr Levels kIq4Levels = {
    {0x3f2d1801, 0x766a5d4f, 0xa6998d81, 0xf1d9c5b5}};
inline constexpr Levels kFp4Doubled = {
    {0x83828180, 0x8c888684, 0x7d7e7f80, 0x74787a7c}};

// Four bytes that are codes of four bits as what they stand for.
template <Levels kLevels>
__device__ __forceinline__ uint32_t LookUp4(uint32_t codes) {
  // Nibbles side by side, as a selector; its own fourth bits mean another
  // thing, and choose between the halves of the table here.
  uint32_t selector = codes | codes >> 4;
  selector = (selector & 0xff) | (selector >> 8 & 0xff00);
  const uint32_t near =
      __byte_perm(kLevels.words[0], kLevels.words[1], selector & 0x7777);
  const uint32_t far =
      __byte_perm(kLevels.words[2], kLevels.words[3], selector & 0x7777);
  const uint32_t is_far = (codes >> 3 & 0x01010101) * 0xff;
  return (near & ~is_far) | (far & is_far);
}

// Bits 0 to 3 as the lowest of four bytes.
__device__ __forceinline__ uint32_t SpreadBits(uint32_t bits) {
  return (bits & 15) * 0x00204081u & 0x01010101u;
}

// (byte i of `codes` - kOffset) · 2^-kShift, exactly: conversions of integers
// are slow.
template <int kOffset, int kShift = 0>
__device__ __forceinline__ float CodeToFloat(uint32_t codes, int i) {
  // The last bit of the mantissa is 2^-kShift.
  constexpr uint32_t kMagic = 0x4b000000u - (uint32_t{kShift} << 23);
  constexpr float kValue = 8388608.0f / (1 << kShift);
  constexpr float kZero = kValue + static_cast<float>(kOffset) / (1 << kShift);
  return __uint_as_float(__byte_perm(codes, kMagic, 0x7640u + i)) - kZero;
}

// Two values of E4M3 as halves, which have them all.
__device__ __forceinline__ uint32_t WidenE4M3(uint32_t pair) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;"
      : "=r"(halves)
      : "h"(static_cast<uint16_t>(pair)));
  return halves;
#else
  uint32_t halves = 0;
  for (int i = 0; i < 2; ++i) {
    const uint32_t byte = pair >> (8 * i) & 0xff;
    // A half's exponent is one bit wider and its bias 8 more.
    const float value = WidenF16(static_cast<uint16_t>((byte & 0x80) << 8 |
                                                       (byte & 0x7f) << 7)) *
                        256.0f;
    const uint32_t half = (byte & 0x7f) == 0x7f ? 0x7fffu : NarrowF16(value);
    halves |= half << (16 * i);
  }
  return halves;
#endif
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

template <DType kType>
inline constexpr bool kIsFp8 =
    kType == DType::kF8E4M3 || kType == DType::kF8E5M2;
template <DType kType>
inline constexpr bool kHasSeparateScales =
    kIsFp8<kType> || kType == DType::kF4E2M1;

namespace decode {

// Weights that are codes with a scale, and in some types a minimum to be added:
// two words of bytes. Scale · code is exact: of 22 bits at most.
template <DType kType>
struct CodedWeights {
  static constexpr bool kHasMin =
      kType == DType::kQ4_1 || kType == DType::kQ5_1 || kType == DType::kQ2_K ||
      kType == DType::kQ4_K || kType == DType::kQ5_K;
  static constexpr int kOffset = kHasMin                 ? 0
                                 : kType == DType::kQ4_0 ? 8
                                 : kType == DType::kQ5_0 ? 16
                                 : kType == DType::kQ3_K ? 4
                                 : kType == DType::kQ6_K ? 32
                                                         : 128;

  uint32_t codes[2];
  float scale;
  float min;

  __device__ __forceinline__ CodedWeights(const WeightUnit<kType>& unit,
                                          int64_t k) {
    const auto half = [](uint32_t bits) {
      return WidenF16(static_cast<uint16_t>(bits));
    };
    const int at = static_cast<int>(k & 255);
    // Where a block of 32 holds its second half in the upper nibbles.
    const int shift = at % 32 < 16 ? 0 : 4;
    const auto nibbles = [&](int j, int by) {
      return unit.codes[j] >> by & 0x0f0f0f0fu;
    };
    scale = half(unit.scale);
    if constexpr (kType == DType::kQ4_0 || kType == DType::kQ4_1) {
      codes[0] = nibbles(0, shift);
      codes[1] = nibbles(1, shift);
      if (kHasMin) min = half(unit.min);
    } else if constexpr (kType == DType::kQ5_0 || kType == DType::kQ5_1) {
      const uint32_t fifth = unit.high[0] >> (at % 32);
      codes[0] = nibbles(0, shift) | SpreadBits(fifth) << 4;
      codes[1] = nibbles(1, shift) | SpreadBits(fifth >> 4) << 4;
      if (kHasMin) min = half(unit.min);
    } else if constexpr (kType == DType::kQ8_0) {
      codes[0] = unit.codes[0] ^ 0x80808080u;
      codes[1] = unit.codes[1] ^ 0x80808080u;
    } else if constexpr (kType == DType::kIQ4_NL) {
      codes[0] = LookUp4<kIq4Levels>(nibbles(0, shift));
      codes[1] = LookUp4<kIq4Levels>(nibbles(1, shift));
    } else if constexpr (kType == DType::kMXFP4) {
      // 2^(e - 128): one below E8M0's value because the levels are doubled.
      scale = __uint_as_float(unit.scale < 2 ? 0x00200000u << unit.scale
                                             : (unit.scale - 1) << 23);
      codes[0] = LookUp4<kFp4Doubled>(nibbles(0, shift));
      codes[1] = LookUp4<kFp4Doubled>(nibbles(1, shift));
    } else if constexpr (kType == DType::kQ2_K) {
      scale *= static_cast<int>(unit.sub_scale & 15);
      min = -(half(unit.min) * static_cast<int>(unit.sub_scale >> 4));
      const int pair = 2 * (at % 128 / 32);
      codes[0] = unit.codes[0] >> pair & 0x03030303u;
      codes[1] = unit.codes[1] >> pair & 0x03030303u;
    } else if constexpr (kType == DType::kQ3_K) {
      const int s = at / 16;
      const int low = static_cast<int>(unit.sub_scale >> (s < 8 ? 0 : 4) & 15);
      const int high = static_cast<int>(unit.sub_min >> (2 * (s / 4)) & 3);
      scale *= (low | high << 4) - 32;
      const int pair = 2 * (at % 128 / 32);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        codes[j] = (unit.codes[j] >> pair & 0x03030303u) |
                   (unit.high[j] >> (at / 32) & 0x01010101u) << 2;
      }
    } else if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
      const uint32_t first = unit.sub_scale & 0xff;
      const uint32_t fourth = unit.sub_scale >> 8 & 0xff;
      const uint32_t eighth = unit.sub_scale >> 16;
      const uint32_t s =
          at < 128 ? first & 63 : (eighth & 15) | first >> 6 << 4;
      const uint32_t m =
          at < 128 ? fourth & 63 : eighth >> 4 | fourth >> 6 << 4;
      scale *= static_cast<int>(s);
      min = -(half(unit.min) * static_cast<int>(m));
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        codes[j] = nibbles(j, at / 32 % 2 * 4);
        if (kType == DType::kQ5_K) {
          codes[j] |= (unit.high[j] >> (at / 32) & 0x01010101u) << 4;
        }
      }
    } else if constexpr (kType == DType::kQ6_K) {
      const int part = at % 128 / 32;
      scale *= static_cast<int8_t>(unit.sub_scale);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        codes[j] = nibbles(j, part < 2 ? 0 : 4) |
                   (unit.high[j] >> (2 * part) & 0x03030303u) << 4;
      }
    } else {
      static_assert(kType == DType::kIQ4_XS);
      const int s = at / 32;
      const int low = static_cast<int>(unit.sub_scale >> (4 * (s & 1)) & 15);
      const int high = static_cast<int>(unit.sub_min >> (2 * s) & 3);
      scale *= (low | high << 4) - 32;
      codes[0] = LookUp4<kIq4Levels>(nibbles(0, shift));
      codes[1] = LookUp4<kIq4Levels>(nibbles(1, shift));
    }
  }

  __device__ __forceinline__ float Value(int i) const {
    const float code = CodeToFloat<kOffset>(codes[i / 4], i % 4);
    return kHasMin ? fmaf(scale, code, min) : scale * code;
  }
};

}  // namespace decode

// The eight weights from `k` on that `unit` was fetched for.
template <DType kType>
__device__ __forceinline__ void Decode(const WeightUnit<kType>& unit, int64_t k,
                                       float* w) {
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
    for (int i = 0; i < kUnit; i += 2) {
      const uint32_t pair =
          decode::WidenE4M3(unit.codes[i / 4] >> (8 * (i & 2)) & 0xffff);
      w[i] = WidenF16(static_cast<uint16_t>(pair));
      w[i + 1] = WidenF16(static_cast<uint16_t>(pair >> 16));
    }
  } else if constexpr (kType == DType::kF8E5M2) {  // the upper half of a half
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      const uint32_t byte = unit.codes[i / 4] >> (8 * (i & 3)) & 0xff;
      w[i] = WidenF16(static_cast<uint16_t>(byte << 8));
    }
  } else if constexpr (kType == DType::kF4E2M1) {
    // By its magnitude and its sign, so that there is a -0.
#pragma unroll
    for (int i = 0; i < kUnit; ++i) {
      const uint32_t doubled = __byte_perm(
          0x03020100u, 0x0c080604u, unit.codes[0] >> (i & 4) * 4 & 0x7777u);
      const uint32_t sign = unit.codes[0] << (28 - 4 * i) & 0x80000000u;
      w[i] = __uint_as_float(
          __float_as_uint(decode::CodeToFloat<0, 1>(doubled, i % 4)) | sign);
    }
  } else {
    const decode::CodedWeights<kType> coded(unit, k);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) w[i] = coded.Value(i);
  }
  if constexpr (kHasSeparateScales<kType>) {
#pragma unroll
    for (int i = 0; i < kUnit; ++i) w[i] *= unit.factor;
  }
}

}  // namespace shoal::cuda
