// AVX2, FMA and F16C; compiled with these flags.
#define SHOAL_ISA avx2

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/compress.h"
#include "kernels/cpu/simd/float_linear.h"
#include "kernels/cpu/simd/hyper_connection.h"
#include "kernels/cpu/simd/int_linear_avx2.h"
#include "kernels/cpu/simd/latent_attention.h"
#include "kernels/cpu/simd/round_rows.h"
#include "kernels/cpu/simd/row_ops.h"
#include "kernels/cpu/simd/sparse_attention.h"

namespace shoal {

const CpuOps& Avx2Ops() {
  static constexpr CpuOps kOps = {
      .name = "avx2",
      .tile_rows = avx2::kTileRows,
      .round_rows = avx2::RoundRows,
      .int_linear = avx2::IntLinearWith<avx2::kTileRows, avx2::Avx2IntKernel>,
      .float_linear = avx2::FloatLinear,
      .rms_norm = avx2::RmsNormRows,
      .layer_norm = avx2::LayerNormRows,
      .rope = avx2::RopeTokens,
      .silu_mul = avx2::SiluMulTokens,
      .cache_write = avx2::CacheWriteTokens,
      .attention = avx2::AttentionTile,
      .attention_scratch_floats = avx2::AttentionScratchFloats,
      .latent_attention = avx2::LatentAttentionHead,
      .latent_attention_scratch_floats = avx2::LatentAttentionScratchFloats,
      .key_scores = avx2::KeyScores,
      .key_scores_scratch_floats = avx2::KeyScoresScratchFloats,
      .sparse_attention = avx2::SparseAttentionToken,
      .sparse_attention_scratch_floats = avx2::SparseAttentionScratchFloats,
      .compress = avx2::CompressChannels,
      .hyper_mix = avx2::HyperMixTokens,
      .hyper_expand = avx2::HyperExpandTokens,
  };
  return kOps;
}

}  // namespace shoal
