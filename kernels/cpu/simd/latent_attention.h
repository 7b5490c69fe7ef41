// Latent attention with expanded keys and values, one head of one sequence at a
// time: each tile of cached rows is expanded once for all of the sequence's new
// tokens. Included by isa_<name>.cc only.
#pragma once

#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/row_ops.h"
#include "kernels/cpu/simd/sparse_attention.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

// Rows of keys and of values lie this far apart.
inline int64_t ExpandedDim(const LatentHead& p) {
  const int64_t key = PaddedDim(p.nope_dim + p.params->rope_dim);
  const int64_t value = PaddedDim(p.v_dim);
  return key > value ? key : value;
}

// Layout: weights [rank, nope | v] padded, latent tile, keys, values, rows.
inline int64_t LatentAttentionScratchFloats(const LatentHead& p,
                                            int32_t q_len) {
  const int64_t dim = ExpandedDim(p);
  const int64_t weights = PaddedDim(p.nope_dim) + PaddedDim(p.v_dim);
  const int64_t row = p.rank + p.params->rope_dim;
  return p.rank * weights + kKeys * (PaddedDim(row) + 2 * dim) +
         q_len * (dim + PaddedDim(p.v_dim) + kKeys + 2);
}

// out[j] = Σ_r latent[j][r] · weights[r] for kKeys rows j; `width` columns.
inline void ExpandTile(const float* latent, int64_t latent_stride,
                       const float* weights, int64_t rank, int64_t stride,
                       int64_t width, float* out, int64_t out_stride) {
  constexpr int kRows = 4;
  for (int j = 0; j < kKeys; j += kRows) {
    for (int64_t i = 0; i < width; i += 2 * kLanes) {
      const bool two = i + kLanes < width;
      Vec sum[kRows][2] = {};
      for (int64_t r = 0; r < rank; ++r) {
        const float* w = weights + r * stride + i;
        const Vec w0 = Load(w);
        const Vec w1 = two ? Load(w + kLanes) : Vec{};
        for (int k = 0; k < kRows; ++k) {
          const Vec c = Set(latent[(j + k) * latent_stride + r]);
          sum[k][0] = Fma(c, w0, sum[k][0]);
          sum[k][1] = Fma(c, w1, sum[k][1]);
        }
      }
      for (int k = 0; k < kRows; ++k) {
        Store(sum[k][0], out + (j + k) * out_stride + i);
        if (two) Store(sum[k][1], out + (j + k) * out_stride + i + kLanes);
      }
    }
  }
}

// Sequence `seq`, head `head`.
inline void LatentAttentionHead(const LatentHead& head, int32_t seq,
                                int32_t head_index, float* scratch) {
  const LatentAttentionParams& p = *head.params;
  const int64_t dim = ExpandedDim(head);
  const int64_t nope = head.nope_dim;
  const int64_t nope_width = PaddedDim(nope);
  const int64_t v_width = PaddedDim(head.v_dim);
  const int64_t stride = nope_width + v_width;
  const int64_t row = head.rank + p.rope_dim;
  const int64_t latent_dim = PaddedDim(row);
  float* weights = scratch;
  float* latent = weights + head.rank * stride;
  float* keys = latent + kKeys * latent_dim;
  float* values = keys + kKeys * dim;
  const int32_t start = p.cu_seqlens_q[seq];
  const int32_t q_len = p.cu_seqlens_q[seq + 1] - start;
  const AttentionRows rows =
      MakeRows(q_len, dim, v_width, p.scale, values + kKeys * dim);

  // Both matrices with `rank` rows; padding columns are zero.
  std::memset(weights, 0, head.rank * stride * sizeof(float));
  for (int64_t r = 0; r < head.rank; ++r) {
    LoadRow(static_cast<const uint8_t*>(head.k.data) +
                r * RowBytes(head.k.dtype, nope),
            nope, head.k.dtype, weights + r * stride);
  }
  for (int64_t i = 0; i < head.v_dim; ++i) {
    LoadRow(static_cast<const uint8_t*>(head.v.data) +
                i * RowBytes(head.v.dtype, head.rank),
            head.rank, head.v.dtype, latent);  // free until the first tile
    for (int64_t r = 0; r < head.rank; ++r) {
      weights[r * stride + nope_width + i] = latent[r];
    }
  }
  const int64_t q_width = nope + p.rope_dim;
  const auto num_heads = static_cast<int64_t>(p.k_weights.size());
  for (int64_t t = 0; t < q_len; ++t) {
    std::memcpy(rows.query + t * dim,
                p.q + ((start + t) * num_heads + head_index) * q_width,
                q_width * sizeof(float));
  }

  const int64_t first_position = p.context_lens[seq] - q_len;
  const int64_t end = p.context_lens[seq];
  const int64_t block_size = p.cache.dim(1);
  const int32_t* table = p.block_tables + int64_t{seq} * p.max_blocks;
  std::memset(keys, 0, 2 * kKeys * dim * sizeof(float));
  for (int64_t tile = 0; tile < end; tile += kKeys) {
    const int64_t count = end - tile < kKeys ? end - tile : kKeys;
    for (int64_t j = 0; j < count; ++j) {
      const int64_t key = tile + j;
      GatherRow(
          p.cache,
          int64_t{table[key / block_size]} * block_size + key % block_size, row,
          latent_dim, latent + j * latent_dim);
    }
    std::memset(latent + count * latent_dim, 0,
                (kKeys - count) * latent_dim * sizeof(float));
    ExpandTile(latent, latent_dim, weights, head.rank, stride, nope_width, keys,
               dim);
    ExpandTile(latent, latent_dim, weights + nope_width, head.rank, stride,
               v_width, values, dim);
    for (int64_t j = 0; j < kKeys; ++j) {  // over the padding of the first part
      std::memcpy(keys + j * dim + nope, latent + j * latent_dim + head.rank,
                  p.rope_dim * sizeof(float));
    }
    const int64_t first = first_position >= tile ? 0 : tile - first_position;
    AttendTile(rows, first, keys, values, count, [&](int64_t r) {
      const int64_t valid = first_position + r + 1 - tile;
      return valid > kKeys ? kKeys : valid;
    });
  }
  for (int64_t t = 0; t < q_len; ++t) {
    FinishRow(rows, t, rows.sum[t], head.v_dim,
              p.out + ((start + t) * num_heads + head_index) * head.v_dim);
  }
}

}  // namespace shoal::SHOAL_ISA
