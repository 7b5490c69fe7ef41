#include "kernels/cuda/linear_tensor.cuh"

namespace shoal::cuda {

bool RunBlock32TensorProducts(LaunchContext& context,
                              const ProductParts& parts) {
  return RunTensorProductsOf<Block32Types>(context, parts);
}

}  // namespace shoal::cuda
