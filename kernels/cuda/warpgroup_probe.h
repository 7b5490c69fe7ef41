// Whether products by warpgroups may take the place of the others.
#pragma once

#include "kernels/cuda/launch.h"

namespace shoal::cuda {

// True where the device has warpgroup instructions and products of bf16, in
// tiles of either size, give to the bit what the other kernels give: a row's
// result must not depend on how many rows there are. Waits for the device;
// leaves context.has_warpgroups() as it was.
bool WarpgroupsAgree(LaunchContext& context);

}  // namespace shoal::cuda
