// What a warp does with tiles: products on the tensor cores, loads from shared
// memory in the layout that they want, and copies to it that run beside. Each
// with its twin for hosts.
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

// a · b + c of two pairs of bf16, rounded once.
__device__ __forceinline__ uint32_t FmaBF16x2(uint32_t a, uint32_t b,
                                              uint32_t c) {
#if defined(__CUDACC__)
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
#else
  const auto part = [&](int by) {
    const auto widen = [by](uint32_t pair) {
      return double{WidenBF16(static_cast<uint16_t>(pair >> by))};
    };
    // Rounded to odd on the way, so that the second time is as the only one.
    const double exact = widen(a) * widen(b) + widen(c);
    auto near = static_cast<float>(exact);
    if (near != exact && std::isfinite(near)) {
      const float next =
          std::nextafter(near, exact > near ? HUGE_VALF : -HUGE_VALF);
      if ((__float_as_uint(near) & 1) == 0) near = next;
    }
    return static_cast<uint32_t>(NarrowBF16(near)) << by;
  };
  return part(0) | part(16);
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

// Four tiles of 8×8 halves in shared memory (PTX ISA, ldmatrix): lane 8j + i
// gives the address of row i of tile j, 16-byte aligned. Of tile j a lane gets
// in tiles[j] elements 2t and 2t + 1 of row g, or, transposed, element g of
// rows 2t and 2t + 1; g and t as in MultiplyTile().
template <bool kTransposed>
__device__ __forceinline__ void LoadTiles4(const uint16_t* row,
                                           uint32_t (&tiles)[4]) {
#if defined(__CUDACC__)
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile(
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 "
        "{%0, %1, %2, %3}, [%4];"
        : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
        : "r"(at)
        : "memory");
  } else {
    asm volatile(
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
        : "r"(at)
        : "memory");
  }
#else
  // The addresses that the lanes of a warp gave.
  constexpr int kMaxWarps = 32;
  static const uint16_t* addresses[kMaxWarps][kWarpSize];
  auto& rows = addresses[threadIdx.x / kWarpSize];
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  rows[lane] = row;
  __syncwarp();
  const int g = lane / 4;
  const int t = lane % 4;
  for (int j = 0; j < 4; ++j) {
    const uint16_t low =
        kTransposed ? rows[8 * j + 2 * t][g] : rows[8 * j + g][2 * t];
    const uint16_t high =
        kTransposed ? rows[8 * j + 2 * t + 1][g] : rows[8 * j + g][2 * t + 1];
    tiles[j] = static_cast<uint32_t>(high) << 16 | low;
  }
  __syncwarp();
#endif
}

// Copies 16 bytes to shared memory while the thread goes on, or writes zeros
// there; both addresses 16-byte aligned. A thread's copies since the last
// CommitCopies() are a group; WaitForCopies<n>() waits for all its groups but
// the last n. Others see them after a barrier.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global,
                                            bool zeros) {
#if defined(__CUDACC__)
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = zeros ? 0 : 16;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at),
               "l"(global), "r"(bytes)
               : "memory");
#else
  *static_cast<uint4*>(shared) =
      zeros ? uint4{0, 0, 0, 0} : *static_cast<const uint4*>(global);
#endif
}
__device__ __forceinline__ void CommitCopies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kGroups>
__device__ __forceinline__ void WaitForCopies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

}  // namespace shoal::cuda
