// The indexer's scores, and attention over rows named one by one. Both take one
// token at a time: its heads share the keys, so that widening a tile of them to
// f32 is paid for. Included by isa_<name>.cc only.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/row_ops.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

inline int64_t RowBytes(DType dtype, int64_t width) {
  return width * (dtype == DType::kF32 ? 4 : 2);
}

// Widens row `slot` of `rows` into out [dim], zeros behind it.
inline void GatherRow(const ConstTensorView& rows, int64_t slot, int64_t width,
                      int64_t dim, float* out) {
  LoadRow(static_cast<const uint8_t*>(rows.data) +
              slot * RowBytes(rows.dtype, width),
          width, rows.dtype, out);
  for (int64_t i = width; i < dim; ++i) out[i] = 0;
}

// Floats of scratch that KeyScores() needs.
inline int64_t KeyScoresScratchFloats(const KeySelectParams& p) {
  const int64_t dim = PaddedDim(p.head_dim);
  return kKeys * dim + int64_t{p.num_heads} * (dim + kKeys);
}

// scores[j] = I(token, j) for all visible keys.
inline void KeyScores(const KeySelectParams& p, int32_t seq, int32_t token,
                      float* scores, float* scratch) {
  const int64_t dim = PaddedDim(p.head_dim);
  const int64_t heads = p.num_heads;
  float* keys = scratch;
  float* query = keys + kKeys * dim;
  float* products = query + heads * dim;
  std::memset(query, 0, heads * dim * sizeof(float));
  for (int64_t h = 0; h < heads; ++h) {
    std::memcpy(query + h * dim, p.q + (token * heads + h) * p.head_dim,
                p.head_dim * sizeof(float));
  }
  const int32_t* table = p.block_tables + int64_t{seq} * p.max_blocks;
  const int64_t visible = p.num_visible[token];
  for (int64_t tile = 0; tile < visible; tile += kKeys) {
    const int64_t count = visible - tile < kKeys ? visible - tile : kKeys;
    for (int64_t j = 0; j < count; ++j) {
      const int64_t key = tile + j;
      const int64_t slot =
          int64_t{table[key / p.keys_per_block]} * p.keys_per_block +
          key % p.keys_per_block;
      GatherRow(p.keys, slot, p.head_dim, dim, keys + j * dim);
    }
    std::memset(keys + count * dim, 0, (kKeys - count) * dim * sizeof(float));
    int64_t h = 0;
    for (; h + 4 <= heads; h += 4) {
      Scores<4>(query + h * dim, keys, dim, products + h * kKeys);
    }
    for (; h < heads; ++h) {
      Scores<1>(query + h * dim, keys, dim, products + h * kKeys);
    }
    Vec sums[kKeys / kLanes] = {};
    for (h = 0; h < heads; ++h) {
      const Vec weight = Set(p.weights[token * heads + h]);
      for (int i = 0; i < kKeys / kLanes; ++i) {
        const Vec product = Load(products + h * kKeys + i * kLanes);
        sums[i] = Fma(weight, Max(product, Vec{}), sums[i]);
      }
    }
    float* out = products;  // read through; count may end within a vector
    for (int i = 0; i < kKeys / kLanes; ++i) Store(sums[i], out + i * kLanes);
    std::memcpy(scores + tile, out, count * sizeof(float));
  }
}

inline int64_t SparseAttentionScratchFloats(const SparseAttentionParams& p) {
  const int64_t dim = PaddedDim(p.head_dim);
  return kKeys * dim + p.num_heads * (dim + PaddedDim(p.v_dim) + kKeys + 2);
}

inline void SparseAttentionToken(const SparseAttentionParams& p, int64_t token,
                                 float* scratch) {
  const int64_t dim = PaddedDim(p.head_dim);
  float* keys = scratch;
  const AttentionRows rows = MakeRows(p.num_heads, dim, PaddedDim(p.v_dim),
                                      p.scale, keys + kKeys * dim);
  const int64_t first_head = token * p.num_heads;
  for (int64_t h = 0; h < p.num_heads; ++h) {
    std::memcpy(rows.query + h * dim, p.q + (first_head + h) * p.head_dim,
                p.head_dim * sizeof(float));
  }
  // Tiles are filled across the sources.
  int64_t filled = 0;
  const auto attend = [&] {
    std::memset(keys + filled * dim, 0, (kKeys - filled) * dim * sizeof(float));
    AttendTile(rows, 0, keys, keys, filled, [&](int64_t) { return filled; });
    filled = 0;
  };
  for (const KeySource& source : p.sources) {
    const int32_t* slots = source.slots + token * source.max_keys;
    for (int32_t j = 0; j < source.counts[token]; ++j) {
      GatherRow(source.rows, slots[j], p.head_dim, dim, keys + filled * dim);
      if (++filled == kKeys) attend();
    }
  }
  if (filled > 0) attend();
  for (int64_t h = 0; h < p.num_heads; ++h) {
    float total = rows.sum[h];
    if (p.sinks != nullptr) total += std::exp(p.sinks[h] - rows.max[h]);
    FinishRow(rows, h, total, p.v_dim, p.out + (first_head + h) * p.v_dim);
  }
}

}  // namespace shoal::SHOAL_ISA
