// Launchers of the experts' ops: the choice, and running the chosen ones with
// tokens grouped by expert. Pointers are the device's.
#pragma once

#include <span>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear.h"
#include "kernels/moe.h"

namespace shoal::cuda {

// `router`: the product that makes the logits, nullptr where they are given.
void MoeRoute(LaunchContext& context, const MoeRouteParams& params,
              const GroupedProduct* router);

// One of the three matrices of all experts.
struct ExpertMatrices {
  MatrixShape shape;
  // Device [num_experts]; data of nullptr: the expert lies elsewhere.
  const WeightPointers* pointers = nullptr;
};

struct ExpertProducts {
  ExpertMatrices gate, up, down;
};

// MoeExpertsParams without its matrices, which are those given. `shared`: the
// products of the shared experts, gate, up and down, or none.
void MoeExperts(LaunchContext& context, const MoeExpertsParams& params,
                const ExpertProducts& experts,
                std::span<const GroupedProduct> shared);

}  // namespace shoal::cuda
