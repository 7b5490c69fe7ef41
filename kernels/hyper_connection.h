// Manifold-constrained hyper-connections (arXiv 2512.24880), the residual of
// DeepSeek-V4: m streams of a token instead of one. A block reads one mixture
// of them and its result goes back into all. All f32.
#pragma once

#include <cstdint>

namespace shoal {

// With u = mixing[t], split into u_pre [m], u_post [m] and u_comb [m, m]:
//   pre  = σ(u_pre · scale[0] + base_pre) + eps
//   post = 2 σ(u_post · scale[1] + base_post)
//   C    = softmax of each row of (u_comb · scale[2] + base_comb), plus eps;
//          columns divided by (their sum + eps); then sinkhorn_iters - 1 times
//          rows, then columns, divided likewise
//   out[t] = Σ_j pre_j · streams[t, j]
// Where `post` is nullptr (the end of the stack), mixing, base and scale hold
// the first part only.
struct HyperMixParams {
  const float* streams = nullptr;  // [num_tokens, m, hidden_size]
  const float* mixing = nullptr;   // [num_tokens, (2 + m) · m], or [.., m]
  const float* base = nullptr;     // one row of `mixing`
  const float* scale = nullptr;    // [3], or [1]
  int64_t num_tokens = 0;
  int64_t hidden_size = 0;
  int32_t m = 0;  // at most kMaxStreams
  int32_t sinkhorn_iters = 0;
  float eps = 0;
  float* out = nullptr;   // [num_tokens, hidden_size]
  float* post = nullptr;  // [num_tokens, m]
  float* comb = nullptr;  // [num_tokens, m, m]
};

// streams'[t, k] = post[t, k] · y[t] + Σ_j comb[t, j, k] · streams[t, j]
struct HyperExpandParams {
  const float* y = nullptr;     // [num_tokens, hidden_size]
  const float* post = nullptr;  // [num_tokens, m]
  const float* comb = nullptr;  // [num_tokens, m, m]
  int64_t num_tokens = 0;
  int64_t hidden_size = 0;
  int32_t m = 0;
  float* streams = nullptr;  // [num_tokens, m, hidden_size], in place
};

inline constexpr int32_t kMaxStreams = 8;

}  // namespace shoal
