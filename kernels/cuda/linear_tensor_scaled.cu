#include "kernels/cuda/linear_tensor.cuh"

namespace shoal::cuda {

bool RunScaledTensorProducts(LaunchContext& context,
                             const ProductParts& parts) {
  return RunTensorProductsOf<ScaledTypes>(context, parts);
}

}  // namespace shoal::cuda
