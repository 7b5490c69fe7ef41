// AVX-512 F, BW, VL, DQ, VNNI and BF16; compiled with these flags.
#define SHOAL_ISA avx512

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/compress.h"
#include "kernels/cpu/simd/float_linear.h"
#include "kernels/cpu/simd/hyper_connection.h"
#include "kernels/cpu/simd/int_linear_avx512.h"
#include "kernels/cpu/simd/latent_attention.h"
#include "kernels/cpu/simd/round_rows.h"
#include "kernels/cpu/simd/row_ops.h"
#include "kernels/cpu/simd/sparse_attention.h"

namespace shoal {

const CpuOps& Avx512Ops() {
  static constexpr CpuOps kOps = {
      .name = "avx512",
      .tile_rows = avx512::kTileRows,
      .round_rows = avx512::RoundRows,
      .int_linear =
          avx512::IntLinearWith<avx512::kTileRows, avx512::Avx512IntKernel>,
      .float_linear = avx512::FloatLinear,
      .rms_norm = avx512::RmsNormRows,
      .layer_norm = avx512::LayerNormRows,
      .rope = avx512::RopeTokens,
      .silu_mul = avx512::SiluMulTokens,
      .cache_write = avx512::CacheWriteTokens,
      .attention = avx512::AttentionTile,
      .attention_scratch_floats = avx512::AttentionScratchFloats,
      .latent_attention = avx512::LatentAttentionHead,
      .latent_attention_scratch_floats = avx512::LatentAttentionScratchFloats,
      .key_scores = avx512::KeyScores,
      .key_scores_scratch_floats = avx512::KeyScoresScratchFloats,
      .sparse_attention = avx512::SparseAttentionToken,
      .sparse_attention_scratch_floats = avx512::SparseAttentionScratchFloats,
      .compress = avx512::CompressChannels,
      .hyper_mix = avx512::HyperMixTokens,
      .hyper_expand = avx512::HyperExpandTokens,
  };
  return kOps;
}

}  // namespace shoal
