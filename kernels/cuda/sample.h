// Launcher of the choice of tokens; the params are the kernel table's op's, the
// pointers the device's.
#pragma once

#include "kernels/cuda/launch.h"
#include "kernels/sampling.h"

namespace shoal::cuda {

void Sample(LaunchContext& context, const SampleParams& params);

}  // namespace shoal::cuda
