#include "kernels/cuda/linear_tensor.cuh"

namespace shoal::cuda {

bool RunBlock256TensorProduct(LaunchContext& context,
                              const GroupedProduct& product) {
  return RunTensorProductOf<Block256Types>(context, product);
}

}  // namespace shoal::cuda
