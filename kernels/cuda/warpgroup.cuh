// Products that the four warps of a warpgroup have the tensor cores work on by
// themselves (wgmma, Hopper): asked for, and waited for later. With their twin
// for hosts, which computes a product as late as it may be, so that whoever
// reads a sum or writes a tile too early gets wrong results there.
// Source of layouts and rules: PTX ISA, "Asynchronous warpgroup level matrix
// instructions".
#pragma once

#include <type_traits>

#include "kernels/cuda/tensor_core.cuh"

// Devices before and after Hopper have no such instructions.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SHOAL_HAS_WARPGROUPS 1
#else
#define SHOAL_HAS_WARPGROUPS 0
#endif

namespace shoal::cuda {

inline constexpr int kWarpsOfGroup = 4;
inline constexpr int kTileDepth = 16;  // of the inner dimension

// An operand of kTileDepth (k) by 8 · n columns, or rows, in shared memory: in
// blocks of 8×8 of 128 bytes, 16-byte aligned. A block is eight columns of 16
// bytes each, or, transposed, eight k of 16 bytes. The block of k 8 to 15 lies
// `half_stride` bytes behind that of k 0 to 7, the next eight columns
// `column_stride`.
struct SharedTile {
  const uint8_t* data;
  uint32_t half_stride, column_stride;
};

inline constexpr int kBlockBytes = 128;

// Where 16 bytes of a row lie among rows of `blocks` blocks.
__device__ __forceinline__ int BlockAt(int row, int block, int blocks) {
  return (row / 8 * blocks + block) * kBlockBytes + row % 8 * 16;
}

#if defined(__CUDACC__)
#if SHOAL_HAS_WARPGROUPS
namespace warpgroup {

// The matrix descriptor of a tile without swizzle: address, leading and stride
// byte offset in units of 16 bytes.
__device__ __forceinline__ uint64_t Descriptor(const SharedTile& tile) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(tile.data));
  return (at & 0x3ffffu) >> 4 |
         static_cast<uint64_t>(tile.half_stride >> 4) << 16 |
         static_cast<uint64_t>(tile.column_stride >> 4) << 32;
}

}  // namespace warpgroup

#define SHOAL_SUMS4(d, i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SHOAL_SUMS16(d, i)                                         \
  SHOAL_SUMS4(d, i), SHOAL_SUMS4(d, i + 4), SHOAL_SUMS4(d, i + 8), \
      SHOAL_SUMS4(d, i + 12)
#endif
#else
namespace warpgroup {

struct Pending {
  uint32_t a[4];
  SharedTile shared_a;  // data of nullptr: `a` it is
  SharedTile b;
  bool transposed;
  float* d;
  int columns;
  bool keep;
  int64_t group;
};
constexpr int kMaxWarps = 32;
constexpr int kMaxPending = 32;
// Of every lane: what it has asked for, how much, how much of that is computed,
// and how many groups are closed.
struct Lane {
  Pending pending[kMaxPending];
  int64_t asked = 0, computed = 0, groups = 0;
};
inline Lane (&Warp())[kWarpSize] {
  static auto* lanes = new Lane[kMaxWarps][kWarpSize];
  return lanes[threadIdx.x / kWarpSize];
}

inline float Element(const SharedTile& tile, bool transposed, int column,
                     int k) {
  const auto* block = reinterpret_cast<const uint16_t*>(
      tile.data + column / 8 * tile.column_stride + k / 8 * tile.half_stride);
  return WidenBF16(transposed ? block[k % 8 * 8 + column % 8]
                              : block[column % 8 * 8 + k % 8]);
}

inline void Compute(const Lane (&warp)[kWarpSize], int64_t index) {
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  const Pending& mine = warp[lane].pending[index % kMaxPending];
  for (int i = 0; i < mine.columns / 2; ++i) {
    const int row = lane / 4 + (i % 4 >= 2 ? 8 : 0);
    const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    float sum = mine.keep ? mine.d[i] : 0.0f;
    for (int k = 0; k < kTileDepth; ++k) {
      float left;
      if (mine.shared_a.data != nullptr) {
        const int warp = static_cast<int>(threadIdx.x / kWarpSize);
        left =
            Element(mine.shared_a, false, warp % kWarpsOfGroup * 16 + row, k);
      } else {
        const uint32_t pair = warp[row % 8 * 4 + k % 8 / 2]
                                  .pending[index % kMaxPending]
                                  .a[row / 8 + (k >= 8 ? 2 : 0)];
        left = WidenBF16(static_cast<uint16_t>(k % 2 == 0 ? pair : pair >> 16));
      }
      sum += left * Element(mine.b, mine.transposed, column, k);
    }
    mine.d[i] = sum;
  }
}

inline void Ask(const uint32_t* a, const SharedTile& shared_a,
                const SharedTile& b, bool transposed, bool keep, float* d,
                int columns) {
  Lane& self = Warp()[threadIdx.x % kWarpSize];
  Pending& entry = self.pending[self.asked++ % kMaxPending];
  for (int i = 0; i < 4; ++i) entry.a[i] = a != nullptr ? a[i] : 0;
  entry.shared_a = shared_a;
  entry.b = b;
  entry.transposed = transposed;
  entry.d = d;
  entry.columns = columns;
  entry.keep = keep;
  entry.group = self.groups;
}

}  // namespace warpgroup
#endif

// Registers that products read or write stay before, or behind, what orders
// them: to the compiler a product is over once it is asked for.
template <typename T, int kCount>
__device__ __forceinline__ void PinRegisters(
    [[maybe_unused]] T (&registers)[kCount]) {
#if defined(__CUDACC__)
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      asm volatile("" : "+f"(registers[i])::"memory");
    } else {
      asm volatile("" : "+r"(registers[i])::"memory");
    }
  }
#endif
}

// Before the first product of a kernel, and before those whose `a`, or whose
// sums, the threads have written since the last.
__device__ __forceinline__ void OpenProducts() {
#if defined(__CUDACC__) && SHOAL_HAS_WARPGROUPS
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// d = a · b, or d += a · b where `keep`. Of the 64 rows of a the warp has 16;
// its lanes hold a and the columns of d as those of MultiplyTile() do, d[4j] to
// d[4j + 3] being columns [8j, 8j + 8). Until WaitForProducts() has seen it end
// d must not be touched, and the tile not be written. All threads of the
// warpgroup call it. kTransposed: b is.
template <int kColumns, bool kTransposed = false>
__device__ __forceinline__ void MultiplyAsync(const uint32_t (&a)[4],
                                              const SharedTile& b, bool keep,
                                              float (&d)[kColumns / 2]) {
  static_assert(kColumns == 64 || kColumns == 128);
#if !defined(__CUDACC__)
  warpgroup::Ask(a, {}, b, kTransposed, keep, d, kColumns);
#elif SHOAL_HAS_WARPGROUPS
  const uint64_t tile = warpgroup::Descriptor(b);
  if constexpr (kColumns == 64) {
    asm volatile(
        "{\n.reg .pred keep;\nsetp.ne.b32 keep, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "
        "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "
        "%28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, keep, 1, 1, %38;\n}"
        : SHOAL_SUMS16(d, 0), SHOAL_SUMS16(d, 16)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(tile),
          "r"(static_cast<int>(keep)), "n"(kTransposed ? 1 : 0));
  } else {
    asm volatile(
        "{\n.reg .pred keep;\nsetp.ne.b32 keep, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "
        "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "
        "%28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "
        "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, "
        "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, keep, 1, 1, %70;\n}"
        : SHOAL_SUMS16(d, 0), SHOAL_SUMS16(d, 16), SHOAL_SUMS16(d, 32),
          SHOAL_SUMS16(d, 48)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(tile),
          "r"(static_cast<int>(keep)), "n"(kTransposed ? 1 : 0));
  }
#endif
}

// The same where all 64 rows of a lie in shared memory, too; b has 64 columns.
__device__ __forceinline__ void MultiplyAsync(const SharedTile& a,
                                              const SharedTile& b, bool keep,
                                              float (&d)[32]) {
#if !defined(__CUDACC__)
  warpgroup::Ask(nullptr, a, b, false, keep, d, 64);
#elif SHOAL_HAS_WARPGROUPS
  asm volatile(
      "{\n.reg .pred keep;\nsetp.ne.b32 keep, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "
      "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "
      "%28, %29, %30, %31}, %32, %33, keep, 1, 1, 0, 0;\n}"
      : SHOAL_SUMS16(d, 0), SHOAL_SUMS16(d, 16)
      : "l"(warpgroup::Descriptor(a)), "l"(warpgroup::Descriptor(b)),
        "r"(static_cast<int>(keep)));
#endif
}

// The products asked for since the last call are a group.
__device__ __forceinline__ void CommitProducts() {
#if !defined(__CUDACC__)
  ++warpgroup::Warp()[threadIdx.x % kWarpSize].groups;
#elif SHOAL_HAS_WARPGROUPS
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
// Waits for all groups but the last kGroups.
template <int kGroups>
__device__ __forceinline__ void WaitForProducts() {
#if !defined(__CUDACC__)
  auto& warp = warpgroup::Warp();
  auto& self = warp[threadIdx.x % kWarpSize];
  __syncwarp();
  for (; self.computed < self.asked; ++self.computed) {
    const auto& next = self.pending[self.computed % warpgroup::kMaxPending];
    if (next.group >= self.groups - kGroups) break;
    warpgroup::Compute(warp, self.computed);
  }
  __syncwarp();
#elif SHOAL_HAS_WARPGROUPS
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
#endif
}

// What this thread has written to shared memory can be read by products that
// are asked for after the next barrier.
__device__ __forceinline__ void PublishToProducts() {
#if defined(__CUDACC__)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

}  // namespace shoal::cuda
