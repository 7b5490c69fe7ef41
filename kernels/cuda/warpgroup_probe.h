// Whether warpgroups may take the place of the other kernels.
#pragma once

#include "kernels/cuda/launch.h"

namespace shoal::cuda {

// Nothing where the device has no warpgroup instructions, else what gives by
// them, to the bit, what the other kernels give: a row's result must not depend
// on how many rows there are. Products are those of bf16, in tiles of either
// size. Waits for the device; leaves context.warpgroups() as it was.
WarpgroupUse ProbeWarpgroups(LaunchContext& context);

}  // namespace shoal::cuda
