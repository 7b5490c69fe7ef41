// AVX-512 F, BW, VL, DQ, VNNI and BF16; compiled with these flags.
#define SHOAL_ISA avx512

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/float_linear.h"
#include "kernels/cpu/simd/int_linear_avx512.h"
#include "kernels/cpu/simd/round_rows.h"
#include "kernels/cpu/simd/row_ops.h"

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
      .rope = avx512::RopeTokens,
      .silu_mul = avx512::SiluMulTokens,
      .cache_write = avx512::CacheWriteTokens,
      .attention = avx512::AttentionTile,
      .attention_scratch_floats = avx512::AttentionScratchFloats,
  };
  return kOps;
}

}  // namespace shoal
