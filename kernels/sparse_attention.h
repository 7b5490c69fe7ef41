// Attention over chosen keys only: the choice (the "lightning indexer" of
// DeepSeek-V3.2, arXiv 2512.02556), and attention over rows named one by one.
// Work grows with the keys chosen; only the indexer looks at all of them.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/tensor_view.h"

namespace shoal {

// For each token t, over the keys j < num_visible[t] of its sequence:
//   I(t, j) = Σ_h weights[t, h] · max(0, q[t, h]·key[j])
// and the top_k keys of largest I (all, if fewer are visible), the lower j
// first where values tie. f32 throughout. A token's choice depends on its own
// sequence only.
struct KeySelectParams {
  const float* q = nullptr;        // [num_tokens, num_heads, head_dim]
  const float* weights = nullptr;  // [num_tokens, num_heads], scales included
  ConstTensorView keys;            // [num_blocks, keys_per_block, head_dim]
  const int32_t* cu_seqlens_q = nullptr;  // [num_seqs + 1], tokens
  const int32_t* block_tables = nullptr;  // [num_seqs, max_blocks]
  const int32_t* num_visible = nullptr;   // [num_tokens]
  int32_t num_seqs = 0;
  int32_t max_blocks = 0;
  int32_t keys_per_block = 0;
  int32_t num_heads = 0;
  int32_t head_dim = 0;
  int32_t top_k = 0;
  // [num_tokens, top_k]: block_id · keys_per_block + offset of each chosen key,
  // in the rising order of j.
  int32_t* slots = nullptr;
  int32_t* num_selected = nullptr;  // [num_tokens]
};

// Rows that tokens attend to, in a tensor of their own.
struct KeySource {
  ConstTensorView rows;             // [num_rows, head_dim], f32, bf16 or f16
  const int32_t* slots = nullptr;   // [num_tokens, max_keys], rows of `rows`
  const int32_t* counts = nullptr;  // [num_tokens], <= max_keys
  int32_t max_keys = 0;
};

// With k_1, k_2, ... the rows that the sources name for token t, in order, each
// a key and in its first v_dim elements a value that all heads share:
//   score_j = scale · q[t, h]·k_j
//   out[t, h] = Σ_j e^score_j k_j / (Σ_j e^score_j + e^sinks[h])
// without the last term where there are no sinks.
struct SparseAttentionParams {
  const float* q = nullptr;  // [num_tokens, num_heads, head_dim]
  std::span<const KeySource> sources;
  const float* sinks = nullptr;  // [num_heads] or nullptr
  float* out = nullptr;          // [num_tokens, num_heads, v_dim]
  int64_t num_tokens = 0;
  int32_t num_heads = 0;
  int32_t head_dim = 0;
  int32_t v_dim = 0;  // <= head_dim
  float scale = 0;
};

}  // namespace shoal
