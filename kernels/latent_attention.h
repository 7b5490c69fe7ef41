// Latent attention (MLA): new rows of its cache, and attention over it with
// keys and values expanded on the fly, which for long chunks of a prompt is
// cheaper than attention in the latent space (kernels/attention.h with one
// tensor for both), and equal to it but for rounding.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "kernels/tensor_view.h"

namespace shoal {

// What new tokens bring, all between projections and attention in one op:
//   cache[slot_mapping[t]] = [norm ⊙ c · rsqrt(mean(c²) + eps) | rope(r)]
// for latent[t] = [c (rank values) | r (rope_dim values)], slot -1 skipping the
// row; the last rope_dim values of each q[t, h] are rotated in place and, where
// they are wanted behind absorbed queries too, written to q_rope[t, h].
// Rotation is that of RopeParams.
struct LatentWriteParams {
  float* q = nullptr;           // [num_tokens, num_heads, q_dim]
  float* q_rope = nullptr;      // [num_tokens, num_heads, rope_dim]; or nullptr
  int64_t q_rope_stride = 0;    // elements from head to head of q_rope
  float* latent = nullptr;      // [num_tokens, rank + rope_dim]; used up
  const float* norm = nullptr;  // [rank]
  const float* cos = nullptr;   // [num_tokens, rope_dim / 2]
  const float* sin = nullptr;   // like cos
  const int64_t* slot_mapping = nullptr;  // [num_tokens]
  TensorView cache;  // [num_slots, rank + rope_dim] in the cache's dtype
  int64_t num_tokens = 0;
  int32_t num_heads = 0;
  int32_t q_dim = 0;
  int32_t rope_dim = 0;
  RopeLayout layout = RopeLayout::kHalfSplit;
  float eps = 0;
};

// A cached row is [c (rank values) | r (rope_dim values)]. For head h:
//   k_j = [Uk_h c_j | r_j],  v_j = Uv_h c_j
//   out[t, h] = Σ_j softmax(scale · q[t, h]·k_j) v_j  over j <= position of t
struct LatentAttentionParams {
  const float* q = nullptr;  // [num_tokens, num_heads, nope_dim + rope_dim]
  // One a head, of a float type: Uk_hᵀ [rank, nope_dim], Uv_h [v_dim, rank].
  std::span<const PackedMatrix* const> k_weights;
  std::span<const PackedMatrix* const> v_weights;
  const int32_t* cu_seqlens_q = nullptr;  // [num_seqs + 1], tokens
  const int32_t* context_lens = nullptr;  // [num_seqs], new tokens included
  const int32_t* block_tables = nullptr;  // [num_seqs, max_blocks]
  ConstTensorView cache;  // [num_blocks, block_size, rank + rope_dim]
  float* out = nullptr;   // [num_tokens, num_heads, v_dim]
  // The sequences' tokens: cu_seqlens_q[0] and how many.
  int64_t first_token = 0;
  int64_t num_tokens = 0;
  int32_t num_seqs = 0;
  int32_t max_blocks = 0;
  int32_t rope_dim = 0;
  float scale = 0;
};

}  // namespace shoal
