// Choosing experts on the CPU: a few hundred operations a token, so one
// portable implementation serves every instruction set.
#pragma once

#include <cstdint>

#include "kernels/moe.h"

namespace shoal::cpu {

// Routes tokens [first, last) of `params`. Threads: disjoint ranges may run at
// once. `scratch` holds 2 · num_experts + n_group floats of the caller.
void RouteTokens(const MoeRouteParams& params, int64_t first, int64_t last,
                 float* scratch);

// Floats that RouteTokens needs as scratch.
inline int64_t RouteScratchSize(const MoeRouteParams& params) {
  return 2 * static_cast<int64_t>(params.num_experts) + params.n_group;
}

}  // namespace shoal::cpu
