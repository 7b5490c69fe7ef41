// What the benches of attention attend with: shapes, values, paged caches.
#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/quant/float_bits.h"
#include "tests/bench/kernels_bench.h"
#include "tests/bench/multiples.h"

namespace shoal {

inline constexpr int32_t kBlock = 16;

struct HeadShape {
  int32_t heads, kv_heads, dim, v_dim;
};
inline constexpr HeadShape kSmallGqa = {9, 3, 64, 64};     // SmolLM2-135M
inline constexpr HeadShape kLargeGqa = {32, 8, 128, 128};  // Llama-3-8B
// DeepSeek-V2-Lite, absorbed.
inline constexpr HeadShape kLatent = {16, 1, 576, 512};

inline std::vector<uint16_t> Values(int64_t n) {
  std::vector<uint16_t> values(n);
  for (int64_t i = 0; i < n; ++i) {
    values[i] = F32ToBF16(static_cast<float>(i * 37 % 101 - 50) * 0.01f);
  }
  return values;
}

// Blocks in falling order.
inline std::vector<int32_t> Tables(int32_t blocks) {
  std::vector<int32_t> tables(blocks);
  std::iota(tables.rbegin(), tables.rend(), 0);
  return tables;
}

inline std::vector<float> Queries(int64_t n) {
  std::vector<float> values(n);
  for (int64_t i = 0; i < n; ++i) {
    values[i] = static_cast<float>(i * 53 % 97 - 48) * 0.02f;
  }
  return values;
}

// `num_seqs` sequences of `context` tokens of which the last q_len are new,
// over caches in bf16.
class PagedCase {
 public:
  PagedCase(const HeadShape& shape, int32_t num_seqs, int32_t context,
            int32_t q_len)
      : shape_(shape),
        num_tokens_(int64_t{num_seqs} * q_len),
        blocks_((context + kBlock - 1) / kBlock),
        k_(Values(Rows(num_seqs) * shape.kv_heads * shape.dim)),
        v_(is_latent() ? std::vector<uint16_t>(1)
                       : Values(Rows(num_seqs) * shape.kv_heads * shape.v_dim)),
        q_(Queries(num_tokens_ * shape.heads * shape.dim)),
        out_(num_tokens_ * shape.heads * shape.v_dim),
        tables_(Tables(num_seqs * blocks_)),
        cu_seqlens_(Multiples(num_seqs, q_len)),
        contexts_(std::vector<int32_t>(num_seqs, context)) {
    params.q = q_.data();
    params.cu_seqlens_q = cu_seqlens_.data();
    params.context_lens = contexts_.data();
    params.block_tables = tables_.data();
    params.k_cache = {
        k_.data(),
        DType::kBF16,
        {Rows(num_seqs) / kBlock, kBlock, shape.kv_heads, shape.dim}};
    params.v_cache = params.k_cache;
    if (!is_latent()) {
      params.v_cache.data = v_.data();
      params.tiled = BenchTable().has_cache_tiles();
    }
    params.out = out_.data();
    params.num_seqs = num_seqs;
    params.max_seqlen_q = q_len;
    params.max_blocks = blocks_;
    params.block_size = kBlock;
    params.num_heads = shape.heads;
    params.num_kv_heads = shape.kv_heads;
    params.head_dim = shape.dim;
    params.v_dim = shape.v_dim;
    params.scale = 0.125f;
    const int64_t stored = int64_t{context} * shape.kv_heads * num_seqs;
    bytes_ = stored * 2 * (shape.dim + (is_latent() ? 0 : shape.v_dim));
    items_ = 2 * shape.heads * (shape.dim + shape.v_dim) * num_tokens_ *
             (2 * context - q_len + 1) / 2;
  }

  bool is_latent() const { return shape_.dim != shape_.v_dim; }
  int64_t num_tokens() const { return num_tokens_; }
  int64_t bytes() const { return bytes_; }
  int64_t items() const { return items_; }

  PagedAttentionParams params;

 private:
  int64_t Rows(int32_t num_seqs) const {
    return int64_t{num_seqs} * blocks_ * kBlock;
  }

  const HeadShape shape_;
  const int64_t num_tokens_;
  const int32_t blocks_;
  const BenchArray<uint16_t> k_, v_;
  const BenchArray<float> q_, out_;
  const BenchArray<int32_t> tables_, cu_seqlens_, contexts_;
  int64_t bytes_ = 0, items_ = 0;
};

}  // namespace shoal
