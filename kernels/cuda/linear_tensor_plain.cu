#include "kernels/cuda/linear_tensor.cuh"

namespace shoal::cuda {

bool RunPlainTensorProducts(LaunchContext& context, const ProductParts& parts) {
  return RunTensorProductsOf<HalfTypes>(context, parts);
}

}  // namespace shoal::cuda
