// Paged attention over one tile of queries, by online softmax over tiles of
// kKeys keys that start at multiples of kKeys: a row's arithmetic depends on
// its own position only, not on the tile of queries it came with. Each tile of
// keys and values is widened to f32 once and serves every query of the tile and
// every head of the kv head's group. Included by isa_<name>.cc only.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/row_ops.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

inline constexpr int kKeys = 64;

inline int64_t PaddedDim(int64_t head_dim) {
  return (head_dim + kLanes - 1) / kLanes * kLanes;
}

// Layout of the scratch, in floats: keys [kKeys, dim], values [kKeys, dim] (not
// used where values are parts of keys), and for each row: query [dim],
// accumulator [v_dim], probabilities [kKeys], max, sum.
inline int64_t AttentionScratchFloats(const PagedAttentionParams& p,
                                      int32_t count) {
  const int64_t dim = PaddedDim(p.head_dim);
  const int64_t rows = int64_t{count} * (p.num_heads / p.num_kv_heads);
  return 2 * kKeys * dim + rows * (2 * dim + kKeys + 2);
}

// Widens keys [first, first + count) of the sequence into out [kKeys, dim] and
// zeroes the rest, padding columns too.
inline void GatherRows(const PagedAttentionParams& p,
                       const ConstTensorView& cache, int32_t seq,
                       int32_t kv_head, int64_t first, int64_t count,
                       int64_t dim, float* out) {
  const int64_t element = cache.dtype == DType::kF32 ? 4 : 2;
  const int64_t row_bytes = int64_t{p.num_kv_heads} * p.head_dim * element;
  const auto* base = static_cast<const uint8_t*>(cache.data) +
                     int64_t{kv_head} * p.head_dim * element;
  const int32_t* table = p.block_tables + int64_t{seq} * p.max_blocks;
  for (int64_t j = 0; j < count; ++j) {
    const int64_t key = first + j;
    const int64_t slot =
        int64_t{table[key / p.block_size]} * p.block_size + key % p.block_size;
    LoadRow(base + slot * row_bytes, p.head_dim, cache.dtype, out + j * dim);
    for (int64_t i = p.head_dim; i < dim; ++i) out[j * dim + i] = 0;
  }
  std::memset(out + count * dim, 0, (kKeys - count) * dim * sizeof(float));
}

// scores[r][j] = q[r]·k[j] for kRows rows and all keys of the tile.
template <int kRows>
inline void Scores(const float* q, const float* k, int64_t dim, float* scores) {
  for (int j = 0; j < kKeys; j += 2) {
    Vec a[kRows] = {}, b[kRows] = {};
    for (int64_t i = 0; i < dim; i += kLanes) {
      const Vec k0 = Load(k + j * dim + i);
      const Vec k1 = Load(k + (j + 1) * dim + i);
      for (int r = 0; r < kRows; ++r) {
        const Vec x = Load(q + r * dim + i);
        a[r] = Fma(x, k0, a[r]);
        b[r] = Fma(x, k1, b[r]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      scores[r * kKeys + j] = Sum(a[r]);
      scores[r * kKeys + j + 1] = Sum(b[r]);
    }
  }
}

// kColumns vectors of every row's accumulator from column `i` on.
template <int kRows, int kColumns>
inline void AddColumns(const float* probabilities, const float* v, int64_t keys,
                       int64_t stride, int64_t dim, int64_t i, float* acc) {
  Vec sum[kRows][kColumns];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      sum[r][c] = Load(acc + r * dim + i + c * kLanes);
    }
  }
  for (int64_t j = 0; j < keys; ++j) {
    Vec x[kColumns];
    for (int c = 0; c < kColumns; ++c)
      x[c] = Load(v + j * stride + i + c * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec weight = Set(probabilities[r * kKeys + j]);
      for (int c = 0; c < kColumns; ++c) {
        sum[r][c] = Fma(weight, x[c], sum[r][c]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      Store(sum[r][c], acc + r * dim + i + c * kLanes);
    }
  }
}

// acc[r] += Σ_j probabilities[r][j] · v[j]; `keys` of them, in order, v's rows
// `stride` apart. Several columns at a time: each is a chain of dependent
// operations.
template <int kRows>
inline void AddValues(const float* probabilities, const float* v, int64_t keys,
                      int64_t stride, int64_t dim, float* acc) {
  constexpr int kColumns = kRows > 2 ? 2 : 4;
  int64_t i = 0;
  for (; i + kColumns * kLanes <= dim; i += kColumns * kLanes) {
    AddColumns<kRows, kColumns>(probabilities, v, keys, stride, dim, i, acc);
  }
  for (; i < dim; i += kLanes) {
    AddColumns<kRows, 1>(probabilities, v, keys, stride, dim, i, acc);
  }
}

// Scores of one row become probabilities against the running maximum; keys from
// `valid` on are masked. Rescales the row's accumulator when the maximum rose.
inline void SoftmaxRow(float scale, int64_t valid, int64_t dim, float* scores,
                       float* acc, float* max, float* sum) {
  for (int64_t j = valid; j < kKeys; ++j) scores[j] = -INFINITY;
  Vec highest = Set(-INFINITY);
  for (int j = 0; j < kKeys; j += kLanes) {
    const Vec s = Load(scores + j) * Set(scale);
    Store(s, scores + j);
    highest = Max(s, highest);
  }
  const float tile_max = MaxLane(highest);
  if (tile_max > *max) {
    const float shrink = std::exp(*max - tile_max);  // 0 at the first tile
    for (int64_t i = 0; i < dim; i += kLanes) {
      Store(Load(acc + i) * Set(shrink), acc + i);
    }
    *sum *= shrink;
    *max = tile_max;
  }
  Vec total = {};
  for (int j = 0; j < kKeys; j += kLanes) {
    const Vec e = Exp(Load(scores + j) - Set(*max));
    Store(e, scores + j);
    total = total + e;
  }
  *sum += Sum(total);
}

// The rows of one item: queries with what they have gathered so far.
struct AttentionRows {
  int64_t count = 0;
  int64_t dim = 0;    // padded width of queries and keys
  int64_t v_dim = 0;  // padded width of values
  float scale = 0;
  float* query = nullptr;          // [count, dim]
  float* acc = nullptr;            // [count, v_dim]
  float* probabilities = nullptr;  // [count, kKeys]
  float* max = nullptr;            // [count]
  float* sum = nullptr;            // [count]
};

// `scratch` holds count * (dim + v_dim + kKeys + 2) floats.
inline AttentionRows MakeRows(int64_t count, int64_t dim, int64_t v_dim,
                              float scale, float* scratch) {
  AttentionRows rows = {count, dim, v_dim, scale};
  rows.query = scratch;
  rows.acc = rows.query + count * dim;
  rows.probabilities = rows.acc + count * v_dim;
  rows.max = rows.probabilities + count * kKeys;
  rows.sum = rows.max + count;
  std::memset(scratch, 0, count * (dim + v_dim) * sizeof(float));
  for (int64_t r = 0; r < count; ++r) {
    rows.max[r] = -INFINITY;
    rows.sum[r] = 0;
  }
  return rows;
}

// One tile of keys against rows from `row` on; row r sees the first valid(r).
// Values lie as far apart as keys.
template <typename Valid>
inline void AttendTile(const AttentionRows& rows, int64_t row,
                       const float* keys, const float* values, int64_t num_keys,
                       const Valid& valid) {
  const auto run = [&](auto batch) {
    constexpr int kRows = decltype(batch)::value;
    float* scores = rows.probabilities + row * kKeys;
    Scores<kRows>(rows.query + row * rows.dim, keys, rows.dim, scores);
    for (int64_t r = row; r < row + kRows; ++r) {
      SoftmaxRow(rows.scale, valid(r), rows.v_dim,
                 rows.probabilities + r * kKeys, rows.acc + r * rows.v_dim,
                 rows.max + r, rows.sum + r);
    }
    AddValues<kRows>(scores, values, num_keys, rows.dim, rows.v_dim,
                     rows.acc + row * rows.v_dim);
    row += kRows;
  };
  while (rows.count - row >= 4) run(std::integral_constant<int, 4>{});
  if (rows.count - row == 3) run(std::integral_constant<int, 3>{});
  if (rows.count - row == 2) run(std::integral_constant<int, 2>{});
  if (rows.count - row == 1) run(std::integral_constant<int, 1>{});
}

// out = acc[r] / total, the first `width` values.
inline void FinishRow(const AttentionRows& rows, int64_t r, float total,
                      int64_t width, float* out) {
  float* acc = rows.acc + r * rows.v_dim;
  const float scale = 1.0f / total;
  for (int64_t i = 0; i < rows.v_dim; i += kLanes) {
    Store(Load(acc + i) * Set(scale), acc + i);
  }
  std::memcpy(out, acc, width * sizeof(float));
}

inline void AttentionTile(const PagedAttentionParams& p, int32_t seq,
                          int32_t kv_head, int32_t first, int32_t count,
                          float* scratch) {
  const int64_t dim = PaddedDim(p.head_dim);
  const bool shared = p.v_cache.data == p.k_cache.data;
  const int32_t group = p.num_heads / p.num_kv_heads;
  float* keys = scratch;
  float* values = shared ? keys : keys + kKeys * dim;
  const AttentionRows rows =
      MakeRows(int64_t{count} * group, dim, PaddedDim(p.v_dim), p.scale,
               keys + 2 * kKeys * dim);

  // Rows are tokens, each with its heads together.
  const int32_t start = p.cu_seqlens_q[seq];
  const int32_t q_len = p.cu_seqlens_q[seq + 1] - start;
  const int64_t first_position = p.context_lens[seq] - q_len + first;
  const auto head_of = [&](int64_t row) {  // counted over all tokens
    const int64_t token = start + first + row / group;
    return token * p.num_heads + int64_t{kv_head} * group + row % group;
  };
  for (int64_t r = 0; r < rows.count; ++r) {
    std::memcpy(rows.query + r * dim, p.q + head_of(r) * p.head_dim,
                p.head_dim * sizeof(float));
  }

  const int64_t end = first_position + count;  // keys the last row sees
  for (int64_t tile = 0; tile < end; tile += kKeys) {
    const int64_t num_keys = end - tile < kKeys ? end - tile : kKeys;
    GatherRows(p, p.k_cache, seq, kv_head, tile, num_keys, dim, keys);
    if (!shared) {
      GatherRows(p, p.v_cache, seq, kv_head, tile, num_keys, dim, values);
    }
    // Earlier tokens may see nothing of the last tiles.
    const int64_t row =
        first_position >= tile ? 0 : (tile - first_position) * group;
    AttendTile(rows, row, keys, values, num_keys, [&](int64_t r) {
      const int64_t valid = first_position + r / group + 1 - tile;
      return valid > kKeys ? kKeys : valid;
    });
  }
  for (int64_t r = 0; r < rows.count; ++r) {
    FinishRow(rows, r, rows.sum[r], p.v_dim, p.out + head_of(r) * p.v_dim);
  }
}

}  // namespace shoal::SHOAL_ISA
