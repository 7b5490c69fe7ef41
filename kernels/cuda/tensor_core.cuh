// One warp's product of two tiles on the tensor cores, and its twin for hosts.
#pragma once

#include "kernels/cuda/device_math.cuh"

namespace shoal::cuda {

// Two values as bf16, `low` in the lower half.
__device__ __forceinline__ uint32_t PackBF16(float low, float high) {
#if defined(__CUDACC__)
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
#else
  return static_cast<uint32_t>(NarrowBF16(high)) << 16 | NarrowBF16(low);
#endif
}

// d += a · b: a is 16×16, b 16×8, both bf16; d is 16×8 in f32. All lanes call
// it. With g = lane / 4 and t = lane % 4 a lane holds (PTX ISA, matrix
// fragments for mma.m16n8k16 with .bf16), two neighbours in k a register:
//   a[0]: row g, k 2t    a[1]: row g + 8, k 2t
//   a[2]: row g, k 2t + 8    a[3]: row g + 8, k 2t + 8
//   b[0]: column g, k 2t    b[1]: column g, k 2t + 8
//   d[0], d[1]: row g, columns 2t, 2t + 1    d[2], d[3]: row g + 8
__device__ __forceinline__ void MultiplyTile(const uint32_t (&a)[4],
                                             const uint32_t (&b)[2],
                                             float (&d)[4]) {
#if defined(__CUDACC__)
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  // Every lane's registers, seen by the warp.
  constexpr int kMaxWarps = 32;
  static uint32_t registers[kMaxWarps][kWarpSize][6];
  auto& warp = registers[threadIdx.x / kWarpSize];
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  for (int i = 0; i < 4; ++i) warp[lane][i] = a[i];
  for (int i = 0; i < 2; ++i) warp[lane][4 + i] = b[i];
  __syncwarp();
  const auto value = [&](int row_or_column, int k, int first, int stride) {
    const uint32_t pair =
        warp[row_or_column % 8 * 4 + k % 8 / 2]
            [first + row_or_column / 8 + (k >= 8 ? stride : 0)];
    return WidenBF16(static_cast<uint16_t>(k % 2 == 0 ? pair : pair >> 16));
  };
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + (i >= 2 ? 8 : 0);
    const int column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      d[i] += value(row, k, 0, 2) * value(column, k, 4, 1);
    }
  }
  __syncwarp();
#endif
}

}  // namespace shoal::cuda
