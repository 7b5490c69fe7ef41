// Paged attention over one item of queries, by online softmax over tiles of
// kKeys keys that start at multiples of kKeys: a row's arithmetic depends on
// its own position only, not on the item that it came with. Each tile of keys
// and values is packed once and serves every query of the item and every head
// of it. A cache of bf16 is multiplied as it lies where the instruction set can
// (queries and weights rounded to bf16), other caches in f32. Included by
// isa_<name>.cc only.
#pragma once

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/softmax_rows.h"
#include "kernels/cpu/simd/tile_product.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

inline constexpr float kLog2E = 1.44269504f;

inline int64_t RowBytes(DType dtype, int64_t width) {
  return width * (dtype == DType::kF32 ? 4 : 2);
}

// Where the parts of an item's scratch lie.
struct AttentionScratch {
  int64_t depth = 0;    // words of a query or key, rounded up to kLanes
  int64_t v_width = 0;  // values, rounded up to kLanes
  float* keys = nullptr;
  float* values = nullptr;
  float* query = nullptr;
  float* states[2] = {};  // the row's, and a later segment's
  int64_t floats = 0;
};

inline AttentionScratch ScratchAt(int64_t rows, int64_t head_dim, int64_t v_dim,
                                  float* memory) {
  AttentionScratch s;
  s.depth = RoundUp(head_dim, kLanes);
  s.v_width = RoundUp(v_dim, kLanes);
  const auto take = [&](int64_t floats) {
    float* at = memory + s.floats;
    s.floats += RoundUp(floats, 16);  // cache lines
    return at;
  };
  s.keys = take(kKeys * s.depth);
  s.values = take(kKeys * s.v_width);
  s.query = take(rows * s.depth);
  for (float*& states : s.states) {
    states = take(RowStatesFloats(rows, s.v_width));
  }
  return s;
}

inline int64_t AttentionScratchFloats(const PagedAttentionParams& p,
                                      int64_t rows) {
  return ScratchAt(rows, p.head_dim, p.v_dim, nullptr).floats;
}
inline int64_t AttentionStatesFloats(const PagedAttentionParams& p,
                                     int64_t rows) {
  return RowStatesFloats(rows, RoundUp(p.v_dim, kLanes));
}

// Places of an item's rows, which are tokens, each with its heads together.
struct ItemRows {
  ItemRows(const PagedAttentionParams& p, const AttentionItem& item)
      : num_heads(item.num_heads), count(int64_t{item.count} * num_heads) {
    const int32_t start = p.cu_seqlens_q[item.seq];
    const int32_t q_len = p.cu_seqlens_q[item.seq + 1] - start;
    const int32_t group = p.num_heads / p.num_kv_heads;
    first_position = p.context_lens[item.seq] - q_len + item.first;
    first_head = int64_t{start + item.first} * p.num_heads +
                 item.kv_head * group + item.first_head;
    token_heads = p.num_heads;
  }
  // Counted over all tokens.
  int64_t HeadOf(int64_t row) const {
    return first_head + row / num_heads * token_heads + row % num_heads;
  }
  int64_t PositionOf(int64_t row) const {
    return first_position + row / num_heads;
  }
  // The first row that sees key `key`.
  int64_t FirstSeeing(int64_t key) const {
    return key <= first_position ? 0 : (key - first_position) * num_heads;
  }

  int64_t num_heads;
  int64_t count;
  int64_t first_position = 0;
  int64_t first_head = 0;
  int64_t token_heads = 0;
};

// Rows of keys [first, first + count) of the sequence; nullptr behind them.
inline void FindRows(const PagedAttentionParams& p,
                     const ConstTensorView& cache, const AttentionItem& item,
                     int64_t first, int64_t count, StoredRow* rows) {
  const int64_t row_bytes =
      RowBytes(cache.dtype, int64_t{p.num_kv_heads} * p.head_dim);
  const auto* base = static_cast<const uint8_t*>(cache.data) +
                     RowBytes(cache.dtype, int64_t{item.kv_head} * p.head_dim);
  const int32_t* block =
      p.block_tables + int64_t{item.seq} * p.max_blocks + first / p.block_size;
  int64_t offset = first % p.block_size;
  int64_t j = 0;
  for (; j < count; ++block, offset = 0) {
    const uint8_t* row =
        base + (int64_t{*block} * p.block_size + offset) * row_bytes;
    const int64_t left = p.block_size - offset;
    const int64_t end = j + left < count ? j + left : count;
    for (; j < end; ++j, row += row_bytes) rows[j] = {row, cache.dtype};
  }
  for (; j < kKeys; ++j) rows[j] = {nullptr, cache.dtype};
}

// Asks for the cache lines of bytes [begin, end) of rows that are read soon:
// heads' rows lie apart, which the processor does not foresee.
inline void Prefetch(const StoredRow* rows, int64_t count, int64_t begin,
                     int64_t end) {
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t at = begin; at < end; at += 64) {
      __builtin_prefetch(rows[j].data + at, 0, 2);
    }
  }
}

// The tiles of one segment into `states`, which hold nothing yet.
template <bool kPairs>
inline void AttendSegment(const PagedAttentionParams& p,
                          const AttentionItem& item, const ItemRows& rows,
                          int32_t segment, const AttentionScratch& scratch,
                          const QueryRows& query, const RowStates& states) {
  const int64_t begin = int64_t{segment} * kAttentionSegment;
  const int64_t last = rows.first_position + item.count;  // keys in sight
  const int64_t end =
      begin + kAttentionSegment < last ? begin + kAttentionSegment : last;
  const bool shared = p.v_cache.data == p.k_cache.data;
  ResetRows(states);
  const auto keys_of = [&](int64_t tile) {
    return end - tile < kKeys ? end - tile : kKeys;
  };
  StoredRow k[kKeys], v[kKeys];
  const auto find = [&](int64_t tile) {
    FindRows(p, p.k_cache, item, tile, keys_of(tile), k);
    if (!shared) FindRows(p, p.v_cache, item, tile, keys_of(tile), v);
  };
  const int64_t key_bytes = RowBytes(p.k_cache.dtype, p.head_dim);
  const int64_t value_bytes = RowBytes(p.v_cache.dtype, p.v_dim);
  find(begin);
  if (!shared) Prefetch(v, keys_of(begin), 0, value_bytes);
  for (int64_t tile = begin; tile < end; tile += kKeys) {
    const int64_t num_keys = keys_of(tile);
    PackColumns<kPairs>(k, RoundUp(num_keys, kLanes), p.head_dim, kKeys,
                        scratch.keys);
    PackRows<kPairs>(shared ? k : v, num_keys, p.v_dim, scratch.v_width,
                     scratch.values);
    // The next head of the keys and values, as a rule this thread's next item.
    if (item.kv_head + 1 < p.num_kv_heads) {
      Prefetch(k, num_keys, key_bytes, 2 * key_bytes);
      if (!shared) Prefetch(v, num_keys, key_bytes, key_bytes + value_bytes);
    }
    if (tile + kKeys < end) {
      find(tile + kKeys);
      const int64_t next = keys_of(tile + kKeys);
      Prefetch(k, next, 0, key_bytes);
      if (!shared) Prefetch(v, next, 0, value_bytes);
    }
    // Earlier tokens may see nothing of the last tiles.
    AttendTile<kPairs>(
        query, states, rows.FirstSeeing(tile), scratch.keys, scratch.values,
        num_keys, [&](int64_t r) { return rows.PositionOf(r) + 1 - tile; });
  }
}

template <bool kPairs>
inline void AttendItem(const PagedAttentionParams& p, const AttentionItem& item,
                       float* states, float* memory) {
  const ItemRows rows(p, item);
  const AttentionScratch scratch =
      ScratchAt(rows.count, p.head_dim, p.v_dim, memory);
  for (int64_t r = 0; r < rows.count; ++r) {
    PackQuery<kPairs>(p.q + rows.HeadOf(r) * p.head_dim, p.head_dim,
                      scratch.query + r * scratch.depth);
  }
  const QueryRows query = {scratch.query, scratch.depth,
                           WordsOf<kPairs>(p.head_dim), p.scale * kLog2E};
  const RowStates total =
      RowStatesAt(rows.count, scratch.v_width,
                  states != nullptr ? states : scratch.states[0]);
  const RowStates later =
      RowStatesAt(rows.count, scratch.v_width, scratch.states[1]);
  for (int32_t s = item.segment_begin; s < item.segment_end; ++s) {
    const bool first = s == item.segment_begin;
    AttendSegment<kPairs>(p, item, rows, s, scratch, query,
                          first ? total : later);
    if (first) continue;
    for (int64_t r = rows.FirstSeeing(int64_t{s} * kAttentionSegment);
         r < rows.count; ++r) {
      MergeRow(later, total, r);
    }
  }
  if (states != nullptr) return;
  for (int64_t r = 0; r < rows.count; ++r) {
    FinishRow(total, r, p.v_dim, p.out + rows.HeadOf(r) * p.v_dim);
  }
}

inline void AttentionRun(const PagedAttentionParams& p,
                         const AttentionItem& item, float* states,
                         float* scratch) {
  if (kHasPairs && p.k_cache.dtype == DType::kBF16) {
    AttendItem<kHasPairs>(p, item, states, scratch);
  } else {
    AttendItem<false>(p, item, states, scratch);
  }
}

// `states` are those of the item's segments, one after another.
inline void AttentionMerge(const PagedAttentionParams& p,
                           const AttentionItem& item, float* states) {
  const ItemRows rows(p, item);
  const int64_t v_width = RoundUp(p.v_dim, kLanes);
  const RowStates total = RowStatesAt(rows.count, v_width, states);
  for (int32_t s = 1; s < item.segment_end; ++s) {
    const RowStates later = RowStatesAt(
        rows.count, v_width, states + s * RowStatesFloats(rows.count, v_width));
    for (int64_t r = rows.FirstSeeing(int64_t{s} * kAttentionSegment);
         r < rows.count; ++r) {
      MergeRow(later, total, r);
    }
  }
  for (int64_t r = 0; r < rows.count; ++r) {
    FinishRow(total, r, p.v_dim, p.out + rows.HeadOf(r) * p.v_dim);
  }
}

}  // namespace shoal::SHOAL_ISA
