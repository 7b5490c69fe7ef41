#include "kernels/cuda/linear.cuh"

namespace shoal::cuda {

bool RunBlock32Product(LaunchContext& context, const GroupedProduct& product) {
  return RunProductOf<Block32Types>(context, product);
}

}  // namespace shoal::cuda
