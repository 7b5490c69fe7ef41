#include "kernels/cuda/linear.cuh"

namespace shoal::cuda {

bool RunScaledProduct(LaunchContext& context, const GroupedProduct& product) {
  return RunProductOf<ScaledTypes>(context, product);
}

}  // namespace shoal::cuda
