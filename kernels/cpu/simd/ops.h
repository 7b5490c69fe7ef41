// The table of an instruction set's kernels, all of one spelling but for the
// integer product. Included by isa_<name>.cc only.
#pragma once

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/compress.h"
#include "kernels/cpu/simd/float_linear.h"
#include "kernels/cpu/simd/hyper_connection.h"
#include "kernels/cpu/simd/latent_attention.h"
#include "kernels/cpu/simd/round_rows.h"
#include "kernels/cpu/simd/row_ops.h"
#include "kernels/cpu/simd/sparse_attention.h"
#include "kernels/cpu/simd/widen_row.h"

namespace shoal::SHOAL_ISA {

constexpr CpuOps MakeOps(std::string_view name, int tile_rows,
                         decltype(CpuOps::int_linear) int_linear) {
  return {
      .name = name,
      .tile_rows = tile_rows,
      .round_rows = RoundRows,
      .int_linear = int_linear,
      .float_linear = FloatLinear,
      .widen_row = WidenRow,
      .rms_norm = RmsNormRows,
      .layer_norm = LayerNormRows,
      .rope = RopeTokens,
      .silu_mul = SiluMulTokens,
      .cache_write = CacheWriteTokens,
      .attention = AttentionTile,
      .attention_scratch_floats = AttentionScratchFloats,
      .latent_attention = LatentAttentionHead,
      .latent_attention_scratch_floats = LatentAttentionScratchFloats,
      .key_scores = KeyScores,
      .key_scores_scratch_floats = KeyScoresScratchFloats,
      .sparse_attention = SparseAttentionToken,
      .sparse_attention_scratch_floats = SparseAttentionScratchFloats,
      .compress = CompressChannels,
      .hyper_mix = HyperMixTokens,
      .hyper_expand = HyperExpandTokens,
  };
}

}  // namespace shoal::SHOAL_ISA
