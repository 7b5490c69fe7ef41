#include "kernels/cuda/linear_tensor.cuh"

namespace shoal::cuda {

bool RunBlock32TensorProducts(LaunchContext& context, const ProductParts& parts,
                              RoundedInput& rounded) {
  return RunTensorProductsOf<Block32Types>(context, parts, rounded);
}

}  // namespace shoal::cuda
