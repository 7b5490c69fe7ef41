#include "kernels/cuda/linear_tensor.cuh"

namespace shoal::cuda {

bool RunPlainTensorProducts(LaunchContext& context, const ProductParts& parts,
                            RoundedInput& rounded) {
  return RunTensorProductsOf<HalfTypes>(context, parts, rounded);
}

}  // namespace shoal::cuda
