#include "kernels/cuda/linear_tensor.cuh"

namespace shoal::cuda {

bool RunBlock32TensorProduct(LaunchContext& context,
                             const GroupedProduct& product) {
  return RunTensorProductOf<Block32Types>(context, product);
}

}  // namespace shoal::cuda
