// Stands in for CUDA's header; see cuda_runtime.h beside it.
#pragma once

#include <cstdint>

#include "kernels/quant/float_bits.h"

struct __half {
  uint16_t bits;
};
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half half) { return half.bits; }
inline float __half2float(__half half) { return shoal::F16ToF32(half.bits); }
inline __half __float2half_rn(float x) { return {shoal::F32ToF16(x)}; }
