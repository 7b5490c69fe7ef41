// The portable instruction set: plain C++ and the compiler's vectors.
#define SHOAL_ISA scalar

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/compress.h"
#include "kernels/cpu/simd/float_linear.h"
#include "kernels/cpu/simd/hyper_connection.h"
#include "kernels/cpu/simd/int_linear_portable.h"
#include "kernels/cpu/simd/latent_attention.h"
#include "kernels/cpu/simd/round_rows.h"
#include "kernels/cpu/simd/row_ops.h"
#include "kernels/cpu/simd/sparse_attention.h"

namespace shoal {

const CpuOps& ScalarOps() {
  static constexpr CpuOps kOps = {
      .name = "scalar",
      .tile_rows = scalar::kTileRows,
      .round_rows = scalar::RoundRows,
      .int_linear =
          scalar::IntLinearWith<scalar::kTileRows, scalar::PortableIntKernel>,
      .float_linear = scalar::FloatLinear,
      .rms_norm = scalar::RmsNormRows,
      .layer_norm = scalar::LayerNormRows,
      .rope = scalar::RopeTokens,
      .silu_mul = scalar::SiluMulTokens,
      .cache_write = scalar::CacheWriteTokens,
      .attention = scalar::AttentionTile,
      .attention_scratch_floats = scalar::AttentionScratchFloats,
      .latent_attention = scalar::LatentAttentionHead,
      .latent_attention_scratch_floats = scalar::LatentAttentionScratchFloats,
      .key_scores = scalar::KeyScores,
      .key_scores_scratch_floats = scalar::KeyScoresScratchFloats,
      .sparse_attention = scalar::SparseAttentionToken,
      .sparse_attention_scratch_floats = scalar::SparseAttentionScratchFloats,
      .compress = scalar::CompressChannels,
      .hyper_mix = scalar::HyperMixTokens,
      .hyper_expand = scalar::HyperExpandTokens,
  };
  return kOps;
}

}  // namespace shoal
