// Causal attention over a paged cache of K and V (grouped-query form), and the
// write of new rows into it. Prefill chunks and decode steps are one call: a
// sequence brings q_len >= 1 new tokens whose rows are already in the cache.
//
// Cache layout, one tensor for K and one for V a layer:
//   [num_blocks, block_size, num_kv_heads, head_dim], f32, bf16 or f16;
// slot = block_id · block_size + offset. Tables with has_cache_tiles() also
// take bf16 in tiles of kCacheTile slots, as products of pairs read them:
//   [num_slots / kCacheTile, num_kv_heads, ..]
// where a head of a tile that is not yet full is [kCacheTile, head_dim], and of
// a full one, which the write of its last slot makes,
//   keys    [head_dim / 2, kCacheTile, 2]
//   values  [kCacheTile / 2, head_dim, 2]
// Slots of a tile are written in their order, the context's length tells which
// tiles are full.
#pragma once

#include <cstdint>

#include "kernels/elementwise.h"
#include "kernels/tensor_view.h"

namespace shoal {

inline constexpr int32_t kCacheTile = 16;
enum class CacheOrder : uint8_t { kRows, kKeyTiles, kValueTiles };

// cache[slot_mapping[t]] = row t; slot -1 skips the row.
struct CacheWriteParams {
  const float* rows = nullptr;            // [num_tokens, row_width]
  const int64_t* slot_mapping = nullptr;  // [num_tokens]
  int64_t num_tokens = 0;
  int64_t row_width = 0;   // elements, e.g. num_kv_heads · head_dim
  int64_t row_stride = 0;  // elements between rows of `rows`
  TensorView cache;        // [num_slots, row_width] in the cache's dtype
  // Tiles: num_slots a multiple of kCacheTile, bf16, head_dim a multiple of 32.
  CacheOrder order = CacheOrder::kRows;
  int32_t head_dim = 0;  // of tiles
};

// What stands between the products and the attention of a layer with grouped
// queries: heads of q and k are normalised as RmsNorm() does where there are
// weights, and rotated as Rope() does; k and v are written as CacheWrite()
// does.
struct HeadsWriteParams {
  float* q = nullptr;        // [num_tokens, num_heads, head_dim], in place
  float* k = nullptr;        // [num_tokens, num_kv_heads, head_dim]; scratch
                             // afterwards
  const float* v = nullptr;  // like k
  const float* q_norm = nullptr;          // [head_dim] or nullptr
  const float* k_norm = nullptr;          // like q_norm
  const float* cos = nullptr;             // [num_tokens, head_dim / 2]
  const float* sin = nullptr;             // like cos
  const int64_t* slot_mapping = nullptr;  // [num_tokens], -1 writes nothing
  TensorView k_cache, v_cache;  // [num_slots, num_kv_heads · head_dim]
  CacheOrder k_order = CacheOrder::kRows;
  CacheOrder v_order = CacheOrder::kRows;
  int64_t num_tokens = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  RopeLayout layout = RopeLayout::kHalfSplit;
  float eps = 0;
};

// to[to_rows[i]] = from[from_rows[i]], byte for byte. Rows read are not written
// in the same call.
struct CopyRowsParams {
  ConstTensorView from;                // [.., row_width]
  TensorView to;                       // [.., row_width] of the same dtype
  const int32_t* from_rows = nullptr;  // [num_rows]
  const int32_t* to_rows = nullptr;    // [num_rows]
  int64_t num_rows = 0;
};

// For sequence s and its new token i (absolute position
// p = context_lens[s] - q_len(s) + i), head h, kv head g = h / (num_heads /
// num_kv_heads):
//   score[j] = scale · q[h]·K[j, g]  for 0 <= j <= p;
//   out[h] = Σ_j softmax(score)[j] · V[j, g]
// Accumulates in f32. A row's result depends on its own sequence only.
struct PagedAttentionParams {
  const float* q = nullptr;               // [num_tokens, num_heads, head_dim]
  const int32_t* cu_seqlens_q = nullptr;  // [num_seqs + 1], tokens
  const int32_t* context_lens = nullptr;  // [num_seqs], new tokens included
  const int32_t* block_tables =
      nullptr;              // [num_seqs, max_blocks], ids; -1 pads
  ConstTensorView k_cache;  // [num_blocks, block_size, num_kv_heads, head_dim]
  // Like k_cache. The same tensor as k_cache: a value is the first v_dim
  // elements of its key (MLA's latent row), read once for both.
  ConstTensorView v_cache;
  float* out = nullptr;  // [num_tokens, num_heads, v_dim]
  int32_t num_seqs = 0;
  int32_t max_seqlen_q = 0;  // no sequence has more new tokens; 0: not known
  int32_t max_blocks = 0;    // columns of block_tables
  int32_t block_size = 0;    // tokens a block
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;  // of q and k
  int32_t v_dim = 0;     // <= head_dim; less only where k and v are one tensor
  // The caches hold tiles of keys and of values, as CacheWrite made them; two
  // tensors, block_size a multiple of kCacheTile.
  bool tiled = false;
  float scale = 0;
};

}  // namespace shoal
