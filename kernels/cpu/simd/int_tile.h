// What the integer kernels of all instruction sets share: how a group of a tile
// is laid out (see IntTiles) and how a group's dot becomes a value:
//   acc = fma(scale_w · scale_x, dot, acc);  acc = fma(min_w, sum_x, acc)
// in the order of the groups. Included by isa_<name>.cc only.
#pragma once

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/float_linear.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

template <IntKind kKind, int kRows>
struct IntGroup {
  static constexpr bool kFourBit =
      kKind == IntKind::kU4Min || kKind == IntKind::kS4 ||
      kKind == IntKind::kTable4 || kKind == IntKind::kU4Super;
  static constexpr bool kSuper = kKind == IntKind::kU4Super;
  static constexpr bool kHasMin = kKind == IntKind::kU4Min ||
                                  kKind == IntKind::kU8Min ||
                                  kKind == IntKind::kU4Super;
  static constexpr int kNumScales = kKind == IntKind::kS8Half ? 2 : 1;
  static constexpr int kChunks = kFourBit ? 4 : 8;  // of kRows · 4 bytes
  static constexpr int kScaleBytes = 2 * kRows;
  static constexpr int kHeadBytes =
      kSuper ? 2 * kRows : kScaleBytes * (kNumScales + (kHasMin ? 1 : 0));
  static constexpr int kSuperHeadBytes = kSuper ? 4 * kRows : 0;
  static constexpr int kBytes = kHeadBytes + kChunks * kRows * 4;
};

// Where a panel's products go, and what is read next.
struct PanelOut {
  const LinearOut* out = nullptr;
  int64_t token = 0;  // the panel's first
  int count = 0;
  int64_t ahead = 0;  // bytes from what is read to what will be wanted soon
};

// Bytes of tiles that stay in the second-level cache while all panels pass by.
inline constexpr int64_t kTileCache = 256 << 10;

// Tiles [begin, end) against one panel of kPanel tokens.
template <IntKind kKind, int kPanel, typename Kernel>
inline void PanelTiles(const IntTiles& weight, const RoundedGroup* panel,
                       const PanelOut& out, int64_t begin, int64_t end) {
  constexpr int kRows = Kernel::kTileRows;
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t row = tile * kRows;
    const int64_t left = weight.out_features - row;
    Kernel::template Run<kKind, kPanel>(
        weight.data + tile * weight.tile_bytes, panel,
        weight.in_features / kGroup, row,
        left < kRows ? static_cast<int>(left) : kRows, out);
  }
}

// PanelTiles of out.count tokens, at most kPanel.
template <IntKind kKind, int kPanel, typename Kernel>
inline void PanelTilesOf(const IntTiles& weight, const RoundedGroup* panel,
                         const PanelOut& out, int64_t begin, int64_t end) {
  if constexpr (kPanel > 1) {
    if (out.count < kPanel) {
      PanelTilesOf<kKind, kPanel - 1, Kernel>(weight, panel, out, begin, end);
      return;
    }
  }
  PanelTiles<kKind, kPanel, Kernel>(weight, panel, out, begin, end);
}

template <IntKind kKind, typename Kernel>
inline void ForTiles(const IntTiles& weight, const RoundedRows& in,
                     const LinearOut& out, int64_t begin, int64_t end) {
  constexpr int kMaxPanel = Kernel::kMaxPanel;
  const int64_t groups = in.in_features / kGroup;
  const int64_t fit = kTileCache / weight.tile_bytes;
  const int64_t block = fit > 1 ? fit : 1;
  for (int64_t tile = begin; tile < end; tile += block) {
    const int64_t last = tile + block < end ? tile + block : end;
    for (int64_t token = 0; token < in.num_tokens; token += kMaxPanel) {
      const int64_t left = in.num_tokens - token;
      const int count = static_cast<int>(left < kMaxPanel ? left : kMaxPanel);
      // The last of several panels finds its tiles in the cache, and memory
      // idle: it asks for the next block's.
      const bool idle = token > 0 && left <= kMaxPanel;
      const int64_t ahead = idle ? (last - tile) * weight.tile_bytes : kAhead;
      PanelTilesOf<kKind, kMaxPanel, Kernel>(weight, in.groups + token * groups,
                                             {&out, token, count, ahead}, tile,
                                             last);
    }
  }
}

template <typename Kernel>
inline void IntLinearWith(IntKind kind, const IntTiles& weight,
                          const RoundedRows& in, const LinearOut& out,
                          int64_t begin, int64_t end) {
  switch (kind) {
    case IntKind::kU4Min:
      return ForTiles<IntKind::kU4Min, Kernel>(weight, in, out, begin, end);
    case IntKind::kS4:
      return ForTiles<IntKind::kS4, Kernel>(weight, in, out, begin, end);
    case IntKind::kTable4:
      return ForTiles<IntKind::kTable4, Kernel>(weight, in, out, begin, end);
    case IntKind::kS8:
      return ForTiles<IntKind::kS8, Kernel>(weight, in, out, begin, end);
    case IntKind::kU8Min:
      return ForTiles<IntKind::kU8Min, Kernel>(weight, in, out, begin, end);
    case IntKind::kS8Half:
      return ForTiles<IntKind::kS8Half, Kernel>(weight, in, out, begin, end);
    case IntKind::kU4Super:
      return ForTiles<IntKind::kU4Super, Kernel>(weight, in, out, begin, end);
  }
}

}  // namespace shoal::SHOAL_ISA
