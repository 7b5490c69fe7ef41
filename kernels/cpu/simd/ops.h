// The table of an instruction set's kernels, all of one spelling but for the
// integer product. Included by isa_<name>.cc only.
#pragma once

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/cache_tiles.h"
#include "kernels/cpu/simd/compress.h"
#include "kernels/cpu/simd/float_linear.h"
#include "kernels/cpu/simd/hyper_connection.h"
#include "kernels/cpu/simd/int_tile.h"
#include "kernels/cpu/simd/latent_attention.h"
#include "kernels/cpu/simd/pair_linear.h"
#include "kernels/cpu/simd/round_rows.h"
#include "kernels/cpu/simd/row_ops.h"
#include "kernels/cpu/simd/sparse_attention.h"
#include "kernels/cpu/simd/widen_row.h"

namespace shoal::SHOAL_ISA {

// IntKernel multiplies a tile of weights by a panel of tokens.
template <typename IntKernel>
constexpr CpuOps MakeOps(std::string_view name) {
  return {
      .name = name,
      .tile_rows = IntKernel::kTileRows,
      .max_panel = IntKernel::kMaxPanel,
      .has_pairs = kHasPairs,
      .round_rows = RoundRows<IntKernel::kMaxPanel>,
      .int_linear = IntLinearWith<IntKernel>,
      .float_linear = FloatLinear,
      .round_pairs = RoundPairs,
      .pair_linear = PairLinear,
      .widen_row = WidenRow,
      .rms_norm = RmsNormRows,
      .layer_norm = LayerNormRows,
      .rope = RopeTokens,
      .silu_mul = SiluMulTokens,
      .cache_write = CacheWriteTokens,
      .fill_cache_tiles = FillCacheTiles,
      .attention = AttentionRun,
      .attention_merge = AttentionMerge,
      .attention_scratch_floats = AttentionScratchFloats,
      .attention_states_floats = AttentionStatesFloats,
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
