#include "kernels/cuda/linear_tensor.cuh"

namespace shoal::cuda {

bool RunBlock256TensorProducts(LaunchContext& context,
                               const ProductParts& parts) {
  return RunTensorProductsOf<Block256Types>(context, parts);
}

}  // namespace shoal::cuda
