// Launchers of the experts' ops: the choice, and running the chosen ones with
// tokens grouped by expert. Pointers are the device's.
#pragma once

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

// MoeExpertsParams without its span, whose matrices are the three given.
void MoeExperts(LaunchContext& context, const MoeExpertsParams& params,
                const ExpertMatrices& gate, const ExpertMatrices& up,
                const ExpertMatrices& down);

}  // namespace shoal::cuda
