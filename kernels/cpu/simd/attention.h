// Paged attention over one item of queries, by online softmax over tiles of
// kKeys keys that start at multiples of kKeys: a row's arithmetic depends on
// its own position only, not on the item that it came with. Each tile of keys
// and values is packed once and serves every query of the item and every head
// of it. A cache of bf16 is multiplied as it lies where the instruction set can
// (queries and weights rounded to bf16), other caches in f32. Included by
// isa_<name>.cc only.
#pragma once

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/cache_tiles.h"
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

// The keys and values of an item, packed a tile at a time.
template <bool kPairs>
class PackedKeys {
 public:
  // Of keys [begin, end), whose tiles are taken one after another.
  PackedKeys(const PagedAttentionParams& p, const AttentionItem& item,
             int64_t begin, int64_t end, const AttentionScratch& scratch)
      : p_(p),
        item_(item),
        end_(end),
        scratch_(scratch),
        shared_(p.v_cache.data == p.k_cache.data),
        key_bytes_(RowBytes(p.k_cache.dtype, p.head_dim)),
        value_bytes_(RowBytes(p.v_cache.dtype, p.v_dim)) {
    Find(begin);
    if (!shared_) Prefetch(v_, Count(begin), 0, value_bytes_);
  }

  void Take(int64_t tile) {
    const int64_t num_keys = Count(tile);
    PackColumns<kPairs>(k_, RoundUp(num_keys, kLanes), p_.head_dim, kKeys,
                        scratch_.keys);
    PackRows<kPairs>(shared_ ? k_ : v_, num_keys, p_.v_dim, scratch_.v_width,
                     scratch_.values);
    // The next head of the keys and values, as a rule this thread's next item.
    if (item_.kv_head + 1 < p_.num_kv_heads) {
      Prefetch(k_, num_keys, key_bytes_, 2 * key_bytes_);
      if (!shared_) {
        Prefetch(v_, num_keys, key_bytes_, key_bytes_ + value_bytes_);
      }
    }
    if (tile + kKeys >= end_) return;
    Find(tile + kKeys);
    const int64_t next = Count(tile + kKeys);
    Prefetch(k_, next, 0, key_bytes_);
    if (!shared_) Prefetch(v_, next, 0, value_bytes_);
  }
  PlainOperand keys() const { return {scratch_.keys, kKeys}; }
  PlainOperand values() const { return {scratch_.values, scratch_.v_width}; }

 private:
  int64_t Count(int64_t tile) const {
    return end_ - tile < kKeys ? end_ - tile : kKeys;
  }
  void Find(int64_t tile) {
    FindRows(p_, p_.k_cache, item_, tile, Count(tile), k_);
    if (!shared_) FindRows(p_, p_.v_cache, item_, tile, Count(tile), v_);
  }

  const PagedAttentionParams& p_;
  const AttentionItem& item_;
  const int64_t end_;
  const AttentionScratch& scratch_;
  const bool shared_;
  const int64_t key_bytes_, value_bytes_;
  StoredRow k_[kKeys], v_[kKeys];
};

#if defined(__AVX512BF16__)
// The same of caches in tiles, where they lie but for a last one that is not
// full. Bit for bit what packed rows give.
class TiledKeys {
 public:
  static constexpr int kTiles = kKeys / kCacheTile;

  // Vector i of columns is tile i. What is read at a place asks for what will
  // be read there next: requests come no faster than memory can answer them.
  struct KeyTiles {
    const float* at[kTiles] = {};
    const float* next[kTiles] = {};

    const float* At(int64_t d, int64_t i) const {
      __builtin_prefetch(next[i] + d * kLanes, 0, 2);
      return at[i] + d * kLanes;
    }
  };
  // Words are pairs of keys: kCacheTile / 2 a tile.
  struct ValueTiles {
    const float* at[kTiles] = {};
    const float* next[kTiles] = {};
    int64_t width = 0;

    const float* At(int64_t d, int64_t i) const {
      constexpr int64_t kDepth = kCacheTile / 2;
      const int64_t place = d % kDepth * width + i * kLanes;
      __builtin_prefetch(next[d / kDepth] + place, 0, 2);
      return at[d / kDepth] + place;
    }
  };

  TiledKeys(const PagedAttentionParams& p, const AttentionItem& item,
            int64_t begin, int64_t end, const AttentionScratch& scratch)
      : p_(p),
        item_(item),
        begin_(begin),
        end_(end),
        scratch_(scratch),
        full_(p.context_lens[item.seq] / kCacheTile),
        head_bytes_(TileHeadBytes(p.head_dim)) {
    values_.width = p.v_dim;
    Find(begin, 0);
  }

  void Take(int64_t tile) {
    for (int i = 0; i < kTiles; ++i) {
      keys_.at[i] = keys_.next[i];
      values_.at[i] = values_.next[i];
    }
    if (tile + kKeys < end_) {
      Find(tile + kKeys, 0);
      return;
    }
    PackPartialTile(tile);
    // The next head, as a rule this thread's next item, begins where this did.
    if (item_.kv_head + 1 < p_.num_kv_heads) Find(begin_, head_bytes_);
  }
  const KeyTiles& keys() const { return keys_; }
  const ValueTiles& values() const { return values_; }

 private:
  int64_t NumTiles(int64_t tile) const {
    const int64_t left = end_ - tile < kKeys ? end_ - tile : kKeys;
    return (left + kCacheTile - 1) / kCacheTile;
  }

  // Where tiles from `tile` on are, or a head that lies `skipped` bytes behind.
  void Find(int64_t tile, int64_t skipped) {
    const int64_t tile_bytes = head_bytes_ * p_.num_kv_heads;
    const int64_t in_block = p_.block_size / kCacheTile;
    const int32_t* table = p_.block_tables + int64_t{item_.seq} * p_.max_blocks;
    for (int64_t i = 0; i < NumTiles(tile); ++i) {
      const int64_t t = tile / kCacheTile + i;
      const int64_t at =
          (table[t / in_block] * in_block + t % in_block) * tile_bytes +
          item_.kv_head * head_bytes_ + skipped;
      keys_.next[i] = WordsAt(p_.k_cache, at);
      values_.next[i] = WordsAt(p_.v_cache, at);
    }
  }
  static const float* WordsAt(const ConstTensorView& cache, int64_t bytes) {
    return reinterpret_cast<const float*>(
        static_cast<const uint8_t*>(cache.data) + bytes);
  }

  // The sequence's last tile as if it were full, if it is not. Keys behind the
  // last one may be anything: nobody sees them.
  void PackPartialTile(int64_t tile) {
    const int64_t i = NumTiles(tile) - 1;
    const int64_t first = tile + i * kCacheTile;
    if (first / kCacheTile < full_) return;
    const int64_t count = end_ - first;
    const auto* key = reinterpret_cast<const uint8_t*>(keys_.at[i]);
    const auto* value = reinterpret_cast<const uint8_t*>(values_.at[i]);
    StoredRow k[kCacheTile], v[kCacheTile];
    for (int64_t j = 0; j < kCacheTile; ++j) {
      k[j] = {key + j * p_.head_dim * 2, DType::kBF16};
      v[j] = {value + j * p_.head_dim * 2, DType::kBF16};
    }
    PackColumns<true>(k, kLanes, p_.head_dim, kLanes, scratch_.keys);
    PackRows<true>(v, count, p_.v_dim, scratch_.v_width, scratch_.values);
    keys_.at[i] = scratch_.keys;
    values_.at[i] = scratch_.values;
  }

  const PagedAttentionParams& p_;
  const AttentionItem& item_;
  const int64_t begin_, end_;
  const AttentionScratch& scratch_;
  const int64_t full_;        // of the sequence's tiles
  const int64_t head_bytes_;  // of a tile
  KeyTiles keys_;
  ValueTiles values_;
};
#endif

// The tiles of one segment into `states`, which hold nothing yet.
template <bool kPairs, typename Keys>
inline void AttendSegment(const PagedAttentionParams& p,
                          const AttentionItem& item, const ItemRows& rows,
                          int32_t segment, const AttentionScratch& scratch,
                          const QueryRows& query, const RowStates& states) {
  const int64_t begin = int64_t{segment} * kAttentionSegment;
  const int64_t last = rows.first_position + item.count;  // keys in sight
  const int64_t end =
      begin + kAttentionSegment < last ? begin + kAttentionSegment : last;
  ResetRows(states);
  Keys keys(p, item, begin, end, scratch);
  for (int64_t tile = begin; tile < end; tile += kKeys) {
    keys.Take(tile);
    // Earlier tokens may see nothing of the last tiles.
    AttendTile<kPairs>(
        query, states, rows.FirstSeeing(tile), keys.keys(), keys.values(),
        end - tile < kKeys ? end - tile : kKeys,
        [&](int64_t r) { return rows.PositionOf(r) + 1 - tile; });
  }
}

template <bool kPairs, typename Keys>
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
    AttendSegment<kPairs, Keys>(p, item, rows, s, scratch, query,
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
#if defined(__AVX512BF16__)
  if (p.tiled) return AttendItem<true, TiledKeys>(p, item, states, scratch);
  if (p.k_cache.dtype == DType::kBF16) {
    return AttendItem<true, PackedKeys<true>>(p, item, states, scratch);
  }
#endif
  AttendItem<false, PackedKeys<false>>(p, item, states, scratch);
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
