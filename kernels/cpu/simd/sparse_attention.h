// The indexer's scores, and attention over rows named one by one. Both take one
// token at a time: its heads share the keys. Included by isa_<name>.cc only.
#pragma once

#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/softmax_rows.h"
#include "kernels/cpu/simd/tile_product.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

// Floats of scratch that KeyScores() needs: keys, queries.
inline int64_t KeyScoresScratchFloats(const KeySelectParams& p) {
  const int64_t depth = RoundUp(p.head_dim, kLanes);
  return (kKeys + int64_t{p.num_heads}) * depth;
}

template <bool kPairs>
inline void KeyScoresAs(const KeySelectParams& p, int32_t seq, int32_t token,
                        int64_t begin, int64_t end, float* scores,
                        float* scratch) {
  const int64_t stride = RoundUp(p.head_dim, kLanes);
  const int64_t depth = WordsOf<kPairs>(p.head_dim);
  const int64_t heads = p.num_heads;
  const int64_t first_head = token * heads;
  float* keys = scratch;
  float* query = keys + kKeys * stride;
  for (int64_t h = 0; h < heads; ++h) {
    PackQuery<kPairs>(p.q + (first_head + h) * p.head_dim, p.head_dim,
                      query + h * stride);
  }
  const int32_t* table = p.block_tables + int64_t{seq} * p.max_blocks;
  const auto* base = static_cast<const uint8_t*>(p.keys.data);
  const int64_t row_bytes = RowBytes(p.keys.dtype, p.head_dim);
  for (int64_t tile = begin; tile < end; tile += kKeys) {
    const int64_t count = end - tile < kKeys ? end - tile : kKeys;
    const int64_t width = RoundUp(count, kLanes);
    StoredRow rows[kKeys];
    for (int64_t j = 0; j < count; ++j) {
      const int64_t key = tile + j;
      const int64_t slot =
          int64_t{table[key / p.keys_per_block]} * p.keys_per_block +
          key % p.keys_per_block;
      rows[j] = {base + slot * row_bytes, p.keys.dtype};
    }
    PackColumns<kPairs>(rows, width, p.head_dim, kKeys, keys);
    Vec sums[kKeys / kLanes] = {};
    for (int64_t h = 0; h < heads; h += kRowBlock) {
      alignas(64) float products[kRowBlock * kKeys];
      const int64_t block = heads - h < kRowBlock ? heads - h : kRowBlock;
      TileProduct<kPairs>(block, query + h * stride, stride,
                          PlainOperand{keys, kKeys}, depth, width,
                          /*accumulate=*/false, products, kKeys);
      for (int64_t r = 0; r < block; ++r) {
        const Vec weight = Set(p.weights[first_head + h + r]);
        for (int64_t i = 0; i < width / kLanes; ++i) {
          const Vec product = Load(products + r * kKeys + i * kLanes);
          sums[i] = Fma(weight, Max(product, Vec{}), sums[i]);
        }
      }
    }
    std::memcpy(scores + tile, sums, count * sizeof(float));
  }
}

// scores[j] = I(token, j) for begin <= j < end.
inline void KeyScores(const KeySelectParams& p, int32_t seq, int32_t token,
                      int64_t begin, int64_t end, float* scores,
                      float* scratch) {
  if (kHasPairs && p.keys.dtype == DType::kBF16) {
    KeyScoresAs<kHasPairs>(p, seq, token, begin, end, scores, scratch);
  } else {
    KeyScoresAs<false>(p, seq, token, begin, end, scores, scratch);
  }
}

inline int64_t SparseAttentionScratchFloats(const SparseAttentionParams& p,
                                            int32_t num_heads) {
  return ScratchAt(num_heads, p.head_dim, p.v_dim, nullptr).floats;
}

template <bool kPairs>
inline void AttendChosen(const SparseAttentionParams& p, int64_t token,
                         int32_t first_head, int32_t num_heads, float* memory) {
  const AttentionScratch scratch =
      ScratchAt(num_heads, p.head_dim, p.v_dim, memory);
  const int64_t head = token * p.num_heads + first_head;
  for (int32_t h = 0; h < num_heads; ++h) {
    PackQuery<kPairs>(p.q + (head + h) * p.head_dim, p.head_dim,
                      scratch.query + h * scratch.depth);
  }
  const QueryRows query = {scratch.query, scratch.depth,
                           WordsOf<kPairs>(p.head_dim), p.scale * kLog2E};
  const RowStates states =
      RowStatesAt(num_heads, scratch.v_width, scratch.states[0]);
  ResetRows(states);
  // Tiles are filled across the sources.
  StoredRow rows[kKeys];
  int64_t filled = 0;
  const auto attend = [&] {
    const int64_t width = RoundUp(filled, kLanes);
    for (int64_t j = filled; j < width; ++j) rows[j].data = nullptr;
    PackColumns<kPairs>(rows, width, p.head_dim, kKeys, scratch.keys);
    PackRows<kPairs>(rows, filled, p.v_dim, scratch.v_width, scratch.values);
    AttendTile<kPairs>(query, states, 0, PlainOperand{scratch.keys, kKeys},
                       PlainOperand{scratch.values, scratch.v_width}, filled,
                       [filled](int64_t) { return filled; });
    filled = 0;
  };
  for (const KeySource& source : p.sources) {
    const int32_t* slots = source.slots + token * source.max_keys;
    const auto* base = static_cast<const uint8_t*>(source.rows.data);
    const int64_t row_bytes = RowBytes(source.rows.dtype, p.head_dim);
    for (int32_t j = 0; j < source.counts[token]; ++j) {
      rows[filled] = {base + slots[j] * row_bytes, source.rows.dtype};
      if (++filled == kKeys) attend();
    }
  }
  if (filled > 0) attend();
  for (int32_t h = 0; h < num_heads; ++h) {
    FinishRow(states, h, p.v_dim, p.out + (head + h) * p.v_dim,
              p.sinks != nullptr ? p.sinks + first_head + h : nullptr);
  }
}

// Heads [first_head, first_head + num_heads) of one token.
inline void SparseAttentionToken(const SparseAttentionParams& p, int64_t token,
                                 int32_t first_head, int32_t num_heads,
                                 float* scratch) {
  bool pairs = kHasPairs;
  for (const KeySource& source : p.sources) {
    pairs = pairs && source.rows.dtype == DType::kBF16;
  }
  if (pairs) {
    AttendChosen<kHasPairs>(p, token, first_head, num_heads, scratch);
  } else {
    AttendChosen<false>(p, token, first_head, num_heads, scratch);
  }
}

}  // namespace shoal::SHOAL_ISA
