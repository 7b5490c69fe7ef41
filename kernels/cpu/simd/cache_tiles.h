// Writing rows into the cache, and caches in tiles; see kernels/attention.h for
// both orders. Included by isa_<name>.cc only.
#pragma once

#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/row_ops.h"
#include "kernels/cpu/simd/tile_product.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

static_assert(!kHasPairs || kLanes == kCacheTile);

// Bytes of one head of a tile.
inline int64_t TileHeadBytes(int64_t head_dim) {
  return 2 * kCacheTile * head_dim;
}

// Rows [begin, end) of the params.
inline void CacheWriteTokens(const CacheWriteParams& p, int64_t begin,
                             int64_t end) {
  const int64_t row_bytes =
      p.row_width * (p.cache.dtype == DType::kF32 ? 4 : 2);
  auto* cache = static_cast<uint8_t*>(p.cache.data);
  for (int64_t t = begin; t < end; ++t) {
    const int64_t slot = p.slot_mapping[t];
    if (slot < 0) continue;
    const float* row = p.rows + t * p.row_stride;
    if (p.order == CacheOrder::kRows) {
      StoreRow(row, p.row_width, p.cache.dtype, cache + slot * row_bytes);
      continue;
    }
    const int64_t offset = slot % kCacheTile;
    uint8_t* tile = cache + (slot - offset) * row_bytes;
    for (int64_t i = 0; i < p.row_width; i += p.head_dim) {
      StoreRow(row + i, p.head_dim, p.cache.dtype,
               tile + (kCacheTile * i + offset * p.head_dim) * 2);
    }
  }
}

// Tiles whose last slot rows [begin, end) have gone to become full ones.
// `scratch`: kCacheTile / 2 · head_dim floats.
inline void FillCacheTiles(const CacheWriteParams& p, int64_t begin,
                           int64_t end, float* scratch) {
  if constexpr (kHasPairs) {
    const int64_t head_bytes = TileHeadBytes(p.head_dim);
    auto* cache = static_cast<uint8_t*>(p.cache.data);
    for (int64_t t = begin; t < end; ++t) {
      const int64_t slot = p.slot_mapping[t];
      if (slot < 0 || slot % kCacheTile != kCacheTile - 1) continue;
      uint8_t* head = cache + (slot + 1 - kCacheTile) * p.row_width * 2;
      for (int64_t i = 0; i < p.row_width; i += p.head_dim) {
        StoredRow rows[kCacheTile];
        for (int64_t j = 0; j < kCacheTile; ++j) {
          rows[j] = {head + j * p.head_dim * 2, DType::kBF16};
        }
        if (p.order == CacheOrder::kKeyTiles) {
          PackColumns<true>(rows, kCacheTile, p.head_dim, kLanes, scratch);
        } else {
          PackRows<true>(rows, kCacheTile, p.head_dim, p.head_dim, scratch);
        }
        std::memcpy(head, scratch, head_bytes);
        head += head_bytes;
      }
    }
  }
}

}  // namespace shoal::SHOAL_ISA
