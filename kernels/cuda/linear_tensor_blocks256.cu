#include "kernels/cuda/linear_tensor.cuh"

namespace shoal::cuda {

bool RunBlock256TensorProducts(LaunchContext& context,
                               const ProductParts& parts,
                               RoundedInput& rounded) {
  return RunTensorProductsOf<Block256Types>(context, parts, rounded);
}

}  // namespace shoal::cuda
