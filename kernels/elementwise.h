// Row-wise ops around the matrix products. All f32, accumulation in f32, rows
// independent of each other (batch invariant).
#pragma once

#include <cstdint>

#include "kernels/linear.h"

namespace shoal {

// out[t] = dequantise(table[token_ids[t]]).
struct EmbeddingParams {
  WeightView table;                    // [vocab_size, hidden_size]
  const int32_t* token_ids = nullptr;  // [num_tokens], each in [0, vocab_size)
  int64_t num_tokens = 0;
  float* out = nullptr;  // [num_tokens, hidden_size]
};

// out = weight ⊙ x · rsqrt(mean(x²) + eps) for each row of `width` values.
// `out` may alias `in`. Rows lie `in_stride` and `out_stride` apart, so a head
// of a wider row can be normalised in place.
struct RmsNormParams {
  const float* in = nullptr;      // num_rows rows of width, in_stride apart
  const float* weight = nullptr;  // [width]; nullptr: no weight (all ones)
  float* out = nullptr;
  int64_t num_rows = 0;
  int64_t width = 0;
  int64_t in_stride = 0;   // elements
  int64_t out_stride = 0;  // elements
  float eps = 0;
};

// out = (x - mean(x)) · rsqrt(var(x) + eps) ⊙ weight + bias for each row of
// `width` values, the variance over all of them. `out` may alias `in`.
struct LayerNormParams {
  const float* in = nullptr;      // [num_rows, width]
  const float* weight = nullptr;  // [width]
  const float* bias = nullptr;    // [width]
  float* out = nullptr;           // [num_rows, width]
  int64_t num_rows = 0;
  int64_t width = 0;
  float eps = 0;
};

enum class RopeLayout : uint8_t {
  kHalfSplit,    // pairs (x_i, x_{i+d/2})
  kInterleaved,  // pairs (x_{2i}, x_{2i+1})
};

// Rotates `rotary_dim` values at `offset` of every head, in place:
//   (a, b) -> (a cos - b sin, b cos + a sin)
// with the token's own cos and sin, which carry the attention factor.
struct RopeParams {
  float* x = nullptr;          // num_tokens rows of num_heads heads
  const float* cos = nullptr;  // [num_tokens, rotary_dim / 2]
  const float* sin = nullptr;  // like cos
  int64_t num_tokens = 0;
  int32_t num_heads = 0;
  int32_t head_dim = 0;      // elements a head
  int32_t rotary_dim = 0;    // even, <= head_dim - offset
  int32_t offset = 0;        // first rotated element of a head
  int64_t token_stride = 0;  // elements between tokens
  RopeLayout layout = RopeLayout::kHalfSplit;
  bool inverse = false;  // rotate backwards (-sin)
};

// out[t, i] = silu(gate[t, i]) · up[t, i]; `out` may alias `gate`.
// limit > 0 clamps first: gate <= limit, |up| <= limit.
struct SiluMulParams {
  const float* gate = nullptr;  // [num_tokens, width]
  const float* up = nullptr;    // [num_tokens, width]
  float* out = nullptr;         // [num_tokens, width]
  int64_t num_tokens = 0;
  int64_t width = 0;
  float limit = 0;
};

}  // namespace shoal
