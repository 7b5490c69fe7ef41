// Compressed cache entries of DeepSeek-V4: one row that stands for a window of
// `ratio` tokens, each channel a softmax-weighted mean of its own.
#pragma once

#include <cstdint>

namespace shoal {

// Window w of a sequence is its tokens [w · ratio, (w + 1) · ratio). With value
// C_j and gate Z_j of token j, and j its place in the window, per channel:
//   entry_w = Σ_j softmax_j(Z_j + ape[j]) · C_j
// over the window's tokens. With `overlap`, rows are [a | b] of `width` values
// each and the softmax runs over twice as many: the a halves of the window
// before (none before window 0) and the b halves of this one.
//
// Tokens come in pieces: the open window lives in `state` as a running softmax,
// per channel its maximum, sum and weighted sum; with `overlap` also that of
// the next window, which the a halves have begun. A token at position 0 begins
// afresh, whatever the state holds.
struct CompressParams {
  const float* values = nullptr;          // C [num_tokens, channels]
  const float* gates = nullptr;           // Z, like values
  const float* ape = nullptr;             // [ratio, channels]
  float* state = nullptr;                 // [slots, CompressStateWidth()]
  const int32_t* state_slots = nullptr;   // [num_seqs]
  const int32_t* cu_seqlens_q = nullptr;  // [num_seqs + 1], tokens
  const int32_t* positions = nullptr;     // [num_tokens]
  int32_t num_seqs = 0;
  int32_t ratio = 0;
  int32_t width = 0;
  bool overlap = false;  // channels = overlap ? 2 · width : width
  // [entries, width]: of windows that close in this call, in the order of the
  // tokens that close them.
  float* out = nullptr;
};

inline int64_t CompressStateWidth(int64_t width, bool overlap) {
  return (overlap ? 6 : 3) * width;
}

}  // namespace shoal
