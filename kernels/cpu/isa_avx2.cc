// AVX2, FMA and F16C; compiled with these flags.
#define SHOAL_ISA avx2

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/float_linear.h"
#include "kernels/cpu/simd/int_linear_avx2.h"
#include "kernels/cpu/simd/round_rows.h"
#include "kernels/cpu/simd/row_ops.h"

namespace shoal {

const CpuOps& Avx2Ops() {
  static constexpr CpuOps kOps = {
      .name = "avx2",
      .tile_rows = avx2::kTileRows,
      .round_rows = avx2::RoundRows,
      .int_linear = avx2::IntLinearWith<avx2::kTileRows, avx2::Avx2IntKernel>,
      .float_linear = avx2::FloatLinear,
      .rms_norm = avx2::RmsNormRows,
      .rope = avx2::RopeTokens,
      .silu_mul = avx2::SiluMulTokens,
      .cache_write = avx2::CacheWriteTokens,
      .attention = avx2::AttentionTile,
      .attention_scratch_floats = avx2::AttentionScratchFloats,
  };
  return kOps;
}

}  // namespace shoal
