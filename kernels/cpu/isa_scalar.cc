// The portable instruction set: plain C++ and the compiler's vectors.
#define SHOAL_ISA scalar

#include "kernels/cpu/simd/int_linear_portable.h"
#include "kernels/cpu/simd/ops.h"

namespace shoal {

const CpuOps& ScalarOps() {
  static constexpr CpuOps kOps =
      scalar::MakeOps<scalar::PortableIntKernel>("scalar");
  return kOps;
}

}  // namespace shoal
