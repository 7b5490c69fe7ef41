// The AVX-512 kernels compiled against an emulation of their intrinsics, so
// that they are tested on machines without them. Built where SIMDe is found
// (SHOAL_HAVE_SIMDE).
#pragma once

#include "kernels/cpu/cpu_ops.h"

namespace shoal {

const CpuOps& EmulatedAvx512Ops();

}  // namespace shoal
