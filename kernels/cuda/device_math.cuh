// What kernels share: sums over a warp or a thread block, and reading cache and
// weight elements of any float type as f32.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/dtype.h"

namespace shoal::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr float kMinusInfinity = -__builtin_inff();

// The launch's dynamic shared memory, at least 16-byte aligned.
__device__ __forceinline__ uint8_t* DynamicShared() {
#if defined(__CUDACC__)
  extern __shared__ uint4 shoal_dynamic_shared[];
  return reinterpret_cast<uint8_t*>(shoal_dynamic_shared);
#else
  return static_cast<uint8_t*>(simt::SharedMemory());
#endif
}

// Every lane gets the same bits: the butterfly adds the same pairs everywhere.
__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, mask);
  }
  return x;
}
__device__ __forceinline__ int WarpSum(int x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, mask);
  }
  return x;
}
__device__ __forceinline__ float WarpMax(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, mask));
  }
  return x;
}

// Sum over a thread block of at most 1024; every thread gets it. `partial`:
// shared memory for 32 values; may be used again at once.
template <typename T>
__device__ __forceinline__ T BlockSum(T x, T* partial) {
  x = WarpSum(x);
  const int warp = threadIdx.x / kWarpSize;
  const int num_warps = blockDim.x / kWarpSize;
  if (num_warps == 1) return x;
  if (threadIdx.x % kWarpSize == 0) partial[warp] = x;
  __syncthreads();
  T sum = partial[0];
  for (int w = 1; w < num_warps; ++w) sum += partial[w];
  __syncthreads();
  return sum;
}

// Whether this thread block is the last of `num_blocks` that come here; what
// the others wrote before is there for it then. Every thread gets it. `counter`
// is zero before and after.
__device__ __forceinline__ bool LastBlock(unsigned* counter,
                                          unsigned num_blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(counter, 1u) + 1 == num_blocks;
    if (last) *counter = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}

// silu(gate) · up, as SiluMulParams has it.
__device__ __forceinline__ float Gated(float gate, float up, float limit) {
  if (limit > 0) {
    gate = gate > limit ? limit : gate;  // NaN stays
    up = up > limit ? limit : up < -limit ? -limit : up;
  }
  return gate / (1.0f + expf(-gate)) * up;
}

__device__ __forceinline__ float WidenF16(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}
__device__ __forceinline__ float WidenBF16(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}
// As float_bits.h: NaN keeps its upper bits and stays NaN.
__device__ __forceinline__ uint16_t NarrowBF16(float x) {
  uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return static_cast<uint16_t>((bits >> 16) | 0x40u);
  }
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<uint16_t>(bits >> 16);
}
__device__ __forceinline__ uint16_t NarrowF16(float x) {
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return static_cast<uint16_t>(((bits >> 16) & 0x8000u) | 0x7e00u);
  }
  return __half_as_ushort(__float2half_rn(x));
}

// Two values as E4M3, the first in the lower byte: to the nearest, to the even
// one of two, beyond the largest to the largest. NaN stays NaN.
__device__ __forceinline__ uint32_t NarrowE4M3(float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;"
      : "=h"(pair)
      : "f"(second), "f"(first));
  return pair;
#else
  uint32_t pair = 0;
  for (const float x : {second, first}) {
    const uint32_t bits = __float_as_uint(x);
    const uint32_t size = bits & 0x7fffffffu;
    uint32_t code = 0x7f;
    if (size <= 0x7f800000u) {
      // Steps are 2^-3 of the power of two below, of 2^-6 for what is smaller.
      const int exponent = static_cast<int>(size >> 23) - 127;
      const int lowest = exponent > -6 ? exponent : -6;
      const float steps = rintf(ldexpf(fabsf(x), 3 - lowest));
      const int nearest = 8 * (lowest + 6) + static_cast<int>(steps);
      code = exponent > 8 || nearest > 0x7e ? 0x7e : nearest;
    }
    pair = pair << 8 | (bits >> 24 & 0x80u) | code;
  }
  return pair;
#endif
}

// Bytes of an element of f32, f16 or bf16.
__host__ __device__ __forceinline__ int ElementBytes(DType dtype) {
  return dtype == DType::kF32 ? 4 : 2;
}

// Element `i` of an array of f32, f16 or bf16.
__device__ __forceinline__ float LoadElement(const void* data, DType dtype,
                                             int64_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return dtype == DType::kBF16 ? WidenBF16(bits) : WidenF16(bits);
}

// Elements [i, i + 4), 4 · ElementBytes() aligned.
__device__ __forceinline__ float4 LoadElements4(const void* data, DType dtype,
                                                int64_t i) {
  if (dtype == DType::kF32) {
    return *reinterpret_cast<const float4*>(static_cast<const float*>(data) +
                                            i);
  }
  const uint2 bits =
      *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(data) + i);
  const auto widen = [dtype](uint32_t half) {
    const auto low = static_cast<uint16_t>(half);
    return dtype == DType::kBF16 ? WidenBF16(low) : WidenF16(low);
  };
  return {widen(bits.x & 0xffffu), widen(bits.x >> 16), widen(bits.y & 0xffffu),
          widen(bits.y >> 16)};
}

}  // namespace shoal::cuda
