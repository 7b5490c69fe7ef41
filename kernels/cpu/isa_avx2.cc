// AVX2, FMA and F16C; compiled with these flags.
#define SHOAL_ISA avx2

#include "kernels/cpu/simd/int_linear_avx2.h"
#include "kernels/cpu/simd/ops.h"

namespace shoal {

const CpuOps& Avx2Ops() {
  static constexpr CpuOps kOps = avx2::MakeOps<avx2::Avx2IntKernel>("avx2");
  return kOps;
}

}  // namespace shoal
