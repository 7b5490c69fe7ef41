#include "kernels/cuda/linear.cuh"

namespace shoal::cuda {

bool RunBlock256Product(LaunchContext& context, const GroupedProduct& product) {
  return RunProductOf<Block256Types>(context, product);
}

}  // namespace shoal::cuda
