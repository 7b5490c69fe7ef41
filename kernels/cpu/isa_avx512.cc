// AVX-512 F, BW, VL, DQ, VNNI and BF16; compiled with these flags.
#define SHOAL_ISA avx512

#include "kernels/cpu/simd/int_linear_avx512.h"
#include "kernels/cpu/simd/ops.h"

namespace shoal {

const CpuOps& Avx512Ops() {
  static constexpr CpuOps kOps =
      avx512::MakeOps<avx512::Avx512IntKernel>("avx512");
  return kOps;
}

}  // namespace shoal
