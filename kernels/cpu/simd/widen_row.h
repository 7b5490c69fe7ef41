// Scaled FP8 and FP4 weights as f32, a row at a time: the value's bits become
// an f32's, a power of two repairs the exponent's bias (subnormals too), then
// comes the scale, so that a weight has the reference's one rounding. Included
// by isa_<name>.cc only.
#pragma once

#include <cstring>
#include <limits>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/vec.h"
#include "kernels/quant/dequantize.h"

namespace shoal::SHOAL_ISA {

// s eeee mmm of bias 7, the largest code NaN.
inline Vec FromE4M3(const uint8_t* p, const Vec& scale) {
  const VecU code = LoadU8(p);
  const VecU magnitude = code & 0x7fu;
  const Vec value = BitCast<Vec>((code & 0x80u) << 24 | magnitude << 20) *
                    Set(0x1p120f) * scale;
  const VecU is_nan = BitCast<VecU>(magnitude == 0x7fu);
  return BitCast<Vec>(BitCast<VecU>(value) | (is_nan & 0x7fc00000u));
}

// Two of s ee m of bias 1 a byte, the low half first.
inline Vec FromE2M1(const uint8_t* p, const Vec& scale) {
  VecU code;
  for (int i = 0; i < kLanes / 2; ++i) {
    code[2 * i] = p[i] & 15u;
    code[2 * i + 1] = p[i] >> 4;
  }
  return BitCast<Vec>((code & 8u) << 28 | (code & 7u) << 22) * Set(0x1p126f) *
         scale;
}

inline float ScaleAt(const WeightView& weight, int64_t row, int64_t column) {
  const int64_t index = row / weight.scale_rows * weight.scales.dim(1) +
                        column / weight.scale_cols;
  const auto* data = static_cast<const uint8_t*>(weight.scales.data);
  if (weight.scales.dtype == DType::kF32) {
    float scale;
    std::memcpy(&scale, data + 4 * index, sizeof(scale));
    return scale;
  }
  // E8M0: 2^(byte - 127), of which 0 is a subnormal f32.
  const uint32_t exponent = data[index];
  if (exponent == 0xff) return std::numeric_limits<float>::quiet_NaN();
  return exponent == 0 ? 0x1p-127f : BitCast<float>(exponent << 23);
}

inline void WidenRow(const WeightView& weight, int64_t row, float* out) {
  const bool fp8 = weight.data.dtype == DType::kF8E4M3;
  const bool fp4 = weight.data.dtype == DType::kF4E2M1;
  const int64_t n = weight.in_features();
  if ((!fp8 && !fp4) || weight.scale_cols % kLanes != 0 || n % kLanes != 0) {
    DequantizeWeightRow(weight, row, out);
    return;
  }
  const auto* source =
      static_cast<const uint8_t*>(weight.data.data) + row * (fp8 ? n : n / 2);
  for (int64_t i = 0; i < n;) {
    const Vec scale = Set(ScaleAt(weight, row, i));
    const int64_t next = i + weight.scale_cols;
    const int64_t end = next < n ? next : n;
    for (; i < end; i += kLanes) {
      Store(fp8 ? FromE4M3(source + i, scale) : FromE2M1(source + i / 2, scale),
            out + i);
    }
  }
}

}  // namespace shoal::SHOAL_ISA
