// Multi-head latent attention. What is cached of a token is one row shared by
// all heads: its latent c (kv_lora_rank values, normalised) followed by its
// rotated key part r (rope_dim values). With W_h = [Uk_h ; Uv_h] the rows of
// kv_b_proj that belong to head h:
//
//   absorbed   q~_h = Uk_hᵀ q_nope_h          HeadProjection, transposed
//              a_h  = Σ softmax(scale (q~_h·c + q_rope_h·r)) c   MlaAttention
//              o_h  = Uv_h a_h                HeadProjection
//   expanded   [k_h | v_h] = W_h c for every cached token, then plain attention
//              over k_h ++ r and v_h          MlaExpandedAttention
//
// The two are algebraically equal. Absorbed reads (kv_lora_rank + rope_dim)
// values a cached token, whatever the number of heads: decode. Expanded costs
// fewer multiply-adds a query once the expansion is spread over many queries:
// long prefill chunks. Source: DeepSeek-V2, arXiv 2405.04434, section 2.1.
#pragma once

#include <cstdint>

#include "kernels/linear.h"
#include "kernels/tensor_view.h"

namespace shoal {

// One product a head, with rows [row_offset, row_offset + num_rows) of the
// head's part of the weight, read as stored and dequantised on the way:
//   plain       out[t, h, o] = Σ_i W_h[row_offset + o, i] · in[t, h, i]
//   transposed  out[t, h, i] = Σ_o W_h[row_offset + o, i] · in[t, h, o]
// f32 accumulation in the order of the sum's index: batch invariant.
struct HeadProjectionParams {
  const float* in = nullptr;  // token t, head h at t·in_token_stride + h·in_head_stride
  WeightView weight;          // [num_heads · rows_per_head, columns]
  int64_t num_tokens = 0;
  int32_t num_heads = 0;
  int32_t rows_per_head = 0;
  int32_t row_offset = 0;
  int32_t num_rows = 0;  // row_offset + num_rows <= rows_per_head
  bool transposed = false;
  int64_t in_token_stride = 0;  // elements
  int64_t in_head_stride = 0;
  float* out = nullptr;
  int64_t out_token_stride = 0;
  int64_t out_head_stride = 0;
};

// Where the new tokens and their context lie; as in PagedAttentionParams.
struct PagedContext {
  const int32_t* cu_seqlens_q = nullptr;  // [num_seqs + 1], tokens
  const int32_t* context_lens = nullptr;  // [num_seqs], new tokens included
  const int32_t* block_tables = nullptr;  // [num_seqs, max_blocks], -1 pads
  int32_t num_seqs = 0;
  int32_t max_blocks = 0;
  int32_t block_size = 0;
};

// Absorbed attention; causal, like PagedAttention.
//   out[t, h] = Σ_j softmax_j(scale · (q_latent[t,h]·c[j] + q_rope[t,h]·r[j])) c[j]
// over 0 <= j <= position(t), or over selected[t] only where that is given.
struct MlaAttentionParams {
  const float* q_latent = nullptr;  // [num_tokens, num_heads, kv_lora_rank]
  // [num_tokens, num_heads, rope_dim], rotated; head h of token t lies at
  // t·q_rope_token_stride + h·q_rope_head_stride
  const float* q_rope = nullptr;
  int64_t q_rope_token_stride = 0;
  int64_t q_rope_head_stride = 0;
  ConstTensorView latent_cache;  // [num_blocks, block_size, kv_lora_rank + rope_dim]
  PagedContext context;
  // Positions the indexer chose, rising, -1 pads; nullptr: all of the context.
  const int32_t* selected = nullptr;  // [num_tokens, max_selected]
  int32_t max_selected = 0;
  float* out = nullptr;  // [num_tokens, num_heads, kv_lora_rank]
  int32_t num_heads = 0;
  int32_t kv_lora_rank = 0;
  int32_t rope_dim = 0;
  float scale = 0;
};

// Expanded attention over keys and values that were projected from the latent
// rows of one sequence's context beforehand.
struct MlaExpandedAttentionParams {
  // Head h of query t at t·q_token_stride + h·q_head_stride: nope_dim values,
  // then rope_dim rotated ones.
  const float* q = nullptr;
  int64_t q_token_stride = 0;
  int64_t q_head_stride = 0;
  // [context_len, num_heads, nope_dim + v_dim]: k_h then v_h of each token
  const float* kv = nullptr;
  const float* k_rope = nullptr;  // [context_len, rope_dim], shared by all heads
  float* out = nullptr;           // [num_queries, num_heads, v_dim]
  int32_t num_queries = 0;        // the last num_queries tokens of the context
  int32_t context_len = 0;
  int32_t num_heads = 0;
  int32_t nope_dim = 0;
  int32_t rope_dim = 0;
  int32_t v_dim = 0;
  float scale = 0;
};

}  // namespace shoal
