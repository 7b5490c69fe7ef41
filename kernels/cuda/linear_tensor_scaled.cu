#include "kernels/cuda/linear_tensor.cuh"

namespace shoal::cuda {

bool RunScaledTensorProduct(LaunchContext& context,
                            const GroupedProduct& product) {
  return RunTensorProductOf<ScaledTypes>(context, product);
}

}  // namespace shoal::cuda
