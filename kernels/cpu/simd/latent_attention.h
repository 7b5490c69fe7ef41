// Latent attention with expanded keys and values, one head of one sequence at a
// time: each tile of cached rows is expanded once for all of the sequence's new
// tokens. Where cache and weights are bf16 and the instruction set multiplies
// them, so are the expanded rows. Included by isa_<name>.cc only.
#pragma once

#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/softmax_rows.h"
#include "kernels/cpu/simd/tile_product.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

// Widths and the places of a head's scratch. All strides are in words.
struct LatentScratch {
  LatentScratch(const LatentHead& head, int64_t q_len, float* memory) {
    rank_stride = RoundUp(head.rank, kLanes);
    nope_stride = RoundUp(head.nope_dim, kLanes);
    v_width = RoundUp(head.v_dim, kLanes);
    const int64_t rope = head.params->rope_dim;
    const int64_t key = nope_stride + RoundUp(rope, kLanes);
    const auto take = [&](int64_t count) {
      float* at = memory + floats;
      floats += RoundUp(count, 16);  // cache lines
      return at;
    };
    up_k = take(nope_stride * rank_stride);
    up_v = take(rank_stride * v_width);
    columns = take(RoundUp(head.rank + rope, kLanes) * kKeys);
    rows = take(kKeys * rank_stride);
    expanded = take((key > v_width ? key : v_width) * kKeys);
    keys = take(key * kKeys);
    values = take(kKeys * v_width);
    query_stride = RoundUp(head.nope_dim + rope, kLanes);
    query = take(q_len * query_stride);
    for (float*& state : states) state = take(RowStatesFloats(q_len, v_width));
  }

  int64_t rank_stride, nope_stride, v_width, query_stride;
  float* up_k;      // [nope, rank]
  float* up_v;      // [rank, v_width]
  float* columns;   // cached rows [rank + rope, kKeys]
  float* rows;      // cached rows [kKeys, rank]
  float* expanded;  // what is yet to become pairs; temporary
  float* keys;      // [nope + rope, kKeys]
  float* values;    // [kKeys, v_width]
  float* query;     // [q_len, query_stride]
  float* states[2];
  int64_t floats = 0;
};

inline int64_t LatentAttentionScratchFloats(const LatentHead& p,
                                            int32_t q_len) {
  return LatentScratch(p, q_len, nullptr).floats;
}

#if defined(__AVX512BF16__)
template <size_t... kLane>
inline Vec PairUp(const Vec& a, const Vec& b, std::index_sequence<kLane...>) {
  const Halves halves = BitCast<Halves>(RoundToPairs(a, b));
  return BitCast<Vec>(
      __builtin_shufflevector(halves, halves, (kLane / 2 + kLane % 2 * 16)...));
}
// Lane by lane (a, b) as one word.
inline Vec PairUp(const Vec& a, const Vec& b) {
  return PairUp(a, b, std::make_index_sequence<32>());
}
#else
inline Vec PairUp(const Vec& a, const Vec&) { return a; }
#endif

// Rows 2i and 2i + 1 of f32 become row i of pairs.
inline void PairUpRows(const float* in, int64_t rows, int64_t width,
                       float* out) {
  for (int64_t r = 0; r < rows; r += 2) {
    const float* second = r + 1 < rows ? in + (r + 1) * width : nullptr;
    for (int64_t i = 0; i < width; i += kLanes) {
      Store(PairUp(Load(in + r * width + i),
                   second != nullptr ? Load(second + i) : Vec{}),
            out + r / 2 * width + i);
    }
  }
}

inline StoredRow RowOf(const FloatRows& matrix, int64_t rows, int64_t row) {
  if (row >= rows) return {nullptr, matrix.dtype};
  return {static_cast<const uint8_t*>(matrix.data) +
              row * RowBytes(matrix.dtype, matrix.in_features),
          matrix.dtype};
}

// Both of the head's matrices, as the products want them.
template <bool kPairs>
inline void PackUp(const LatentHead& head, const LatentScratch& s) {
  constexpr int kPack = kPairs ? 2 : 1;
  for (int64_t w = 0; w < WordsOf<kPairs>(head.rank); w += kLanes) {
    // kLanes words of rank: as rows of words over nope, then turned.
    StoredRow block[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const int64_t r = (w + i) * kPack;
      if constexpr (kPairs) {
        float* row = s.expanded + i * s.nope_stride;
        const StoredRow pair[] = {RowOf(head.k, head.rank, r),
                                  RowOf(head.k, head.rank, r + 1)};
        PackRows<true>(pair, 2, head.nope_dim, s.nope_stride, row);
        block[i] = {reinterpret_cast<const uint8_t*>(row), DType::kF32};
      } else {
        block[i] = RowOf(head.k, head.rank, r);
      }
    }
    PackColumns<false>(block, kLanes, head.nope_dim, s.rank_stride, s.up_k + w);
  }
  for (int64_t i = 0; i < head.v_dim; i += kLanes) {
    StoredRow block[kLanes];
    for (int j = 0; j < kLanes; ++j) {
      block[j] = RowOf(head.v, head.v_dim, i + j);
    }
    PackColumns<kPairs>(block, kLanes, head.rank, s.v_width, s.up_v + i);
  }
}

// Keys and values of one tile of cached rows.
template <bool kPairs>
inline void ExpandTile(const LatentHead& head, const StoredRow* stored,
                       int64_t num_keys, const LatentScratch& s) {
  const int64_t rank = WordsOf<kPairs>(head.rank);
  const int64_t nope = WordsOf<kPairs>(head.nope_dim);
  const int64_t rope = WordsOf<kPairs>(head.params->rope_dim);
  const int64_t width = RoundUp(num_keys, kLanes);
  PackColumns<kPairs>(stored, width, head.rank + head.params->rope_dim, kKeys,
                      s.columns);
  float* keys = kPairs ? s.expanded : s.keys;
  TileProduct<kPairs>(head.nope_dim, s.up_k, s.rank_stride,
                      PlainOperand{s.columns, kKeys}, rank, width,
                      /*accumulate=*/false, keys, kKeys);
  if constexpr (kPairs) PairUpRows(keys, head.nope_dim, kKeys, s.keys);
  std::memcpy(s.keys + nope * kKeys, s.columns + rank * kKeys,
              rope * kKeys * sizeof(float));

  for (int64_t j = 0; j < num_keys; ++j) {
    for (int64_t w = 0; w < rank; w += kLanes) {
      Store(LoadWords<kPairs>(stored[j], head.rank, w),
            s.rows + j * s.rank_stride + w);
    }
  }
  float* values = kPairs ? s.expanded : s.values;
  TileProduct<kPairs>(num_keys, s.rows, s.rank_stride,
                      PlainOperand{s.up_v, s.v_width}, rank, s.v_width,
                      /*accumulate=*/false, values, s.v_width);
  if constexpr (kPairs) PairUpRows(values, num_keys, s.v_width, s.values);
}

template <bool kPairs>
inline void AttendExpanded(const LatentHead& head, int32_t seq,
                           int32_t head_index, float* memory) {
  const LatentAttentionParams& p = *head.params;
  const int32_t start = p.cu_seqlens_q[seq];
  const int32_t q_len = p.cu_seqlens_q[seq + 1] - start;
  const LatentScratch s(head, q_len, memory);
  PackUp<kPairs>(head, s);
  const int64_t q_width = head.nope_dim + p.rope_dim;
  const auto num_heads = static_cast<int64_t>(p.k_weights.size());
  for (int64_t t = 0; t < q_len; ++t) {
    PackQuery<kPairs>(p.q + ((start + t) * num_heads + head_index) * q_width,
                      q_width, s.query + t * s.query_stride);
  }
  const QueryRows query = {s.query, s.query_stride, WordsOf<kPairs>(q_width),
                           p.scale * kLog2E};
  const RowStates total = RowStatesAt(q_len, s.v_width, s.states[0]);
  const RowStates later = RowStatesAt(q_len, s.v_width, s.states[1]);

  const int64_t first_position = p.context_lens[seq] - q_len;
  const int64_t end = p.context_lens[seq];
  const int64_t block_size = p.cache.dim(1);
  const int64_t row_bytes = RowBytes(p.cache.dtype, head.rank + p.rope_dim);
  const auto* base = static_cast<const uint8_t*>(p.cache.data);
  const int32_t* table = p.block_tables + int64_t{seq} * p.max_blocks;
  const auto first_seeing = [&](int64_t key) {
    return key <= first_position ? 0 : key - first_position;
  };
  for (int64_t tile = 0; tile < end; tile += kKeys) {
    const int64_t num_keys = end - tile < kKeys ? end - tile : kKeys;
    StoredRow stored[kKeys];
    for (int64_t j = 0; j < kKeys; ++j) {
      stored[j] = {nullptr, p.cache.dtype};
      if (j >= num_keys) continue;
      const int64_t key = tile + j;
      stored[j].data = base + (int64_t{table[key / block_size]} * block_size +
                               key % block_size) *
                                  row_bytes;
    }
    ExpandTile<kPairs>(head, stored, num_keys, s);
    const bool opens = tile % kAttentionSegment == 0;
    const int64_t segment = tile - tile % kAttentionSegment;
    const RowStates& states = segment == 0 ? total : later;
    if (opens) ResetRows(states);
    AttendTile<kPairs>(
        query, states, first_seeing(tile), PlainOperand{s.keys, kKeys},
        PlainOperand{s.values, s.v_width}, num_keys,
        [&](int64_t r) { return first_position + r + 1 - tile; });
    const bool closes =
        tile + kKeys - segment == kAttentionSegment || tile + kKeys >= end;
    if (!closes || segment == 0) continue;
    for (int64_t r = first_seeing(segment); r < q_len; ++r) {
      MergeRow(later, total, r);
    }
  }
  for (int64_t t = 0; t < q_len; ++t) {
    FinishRow(total, t, head.v_dim,
              p.out + ((start + t) * num_heads + head_index) * head.v_dim);
  }
}

// Sequence `seq`, head `head_index`.
inline void LatentAttentionHead(const LatentHead& head, int32_t seq,
                                int32_t head_index, float* scratch) {
  const bool bf16 = head.params->cache.dtype == DType::kBF16 &&
                    head.k.dtype == DType::kBF16 &&
                    head.v.dtype == DType::kBF16;
  // Pairs must not reach across the parts of a row.
  const bool even = head.rank % 2 == 0 && head.nope_dim % 2 == 0;
  if (kHasPairs && bf16 && even) {
    AttendExpanded<kHasPairs>(head, seq, head_index, scratch);
  } else {
    AttendExpanded<false>(head, seq, head_index, scratch);
  }
}

}  // namespace shoal::SHOAL_ISA
