#include "kernels/cuda/linear_tensor.cuh"

namespace shoal::cuda {

bool RunPlainTensorProduct(LaunchContext& context,
                           const GroupedProduct& product) {
  return RunTensorProductOf<HalfTypes>(context, product);
}

}  // namespace shoal::cuda
