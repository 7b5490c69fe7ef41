#include "kernels/cuda/linear.cuh"

namespace shoal::cuda {

bool RunPlainProduct(LaunchContext& context, const GroupedProduct& product) {
  return RunProductOf<PlainTypes>(context, product);
}

}  // namespace shoal::cuda
