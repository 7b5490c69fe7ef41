#include "kernels/cuda/linear.h"

#include "kernels/check.h"

namespace shoal::cuda {

bool IsProductType(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI8:
    case DType::kU8:
    case DType::kI16:
    case DType::kI32:
    case DType::kI64:
    case DType::kBool:
    case DType::kF8E8M0:
      return false;
    default:
      return true;
  }
}

void RunProduct(LaunchContext& context, const GroupedProduct& product) {
  if (product.num_rows == 0 || product.num_groups == 0) return;
  if (product.shape.fast) {
    GroupedProduct ready = product;
    if (NeedsRoundedInput(ready) && ready.rounded.data == nullptr) {
      ready.rounded = RoundInput(context, ready);
    }
    SHOAL_CHECK(RunPlainTensorProduct(context, ready) ||
                RunScaledTensorProduct(context, ready) ||
                RunBlock32TensorProduct(context, ready) ||
                RunBlock256TensorProduct(context, ready));
    return;
  }
  SHOAL_CHECK(RunPlainProduct(context, product) ||
              RunScaledProduct(context, product) ||
              RunBlock32Product(context, product) ||
              RunBlock256Product(context, product));
}

}  // namespace shoal::cuda
