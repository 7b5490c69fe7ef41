#include "kernels/cuda/linear_tensor.cuh"

namespace shoal::cuda {

bool RunScaledTensorProducts(LaunchContext& context, const ProductParts& parts,
                             RoundedInput& rounded) {
  return RunTensorProductsOf<ScaledTypes>(context, parts, rounded);
}

}  // namespace shoal::cuda
