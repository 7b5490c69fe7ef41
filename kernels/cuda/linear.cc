#include "kernels/cuda/linear.h"

#include <algorithm>
#include <vector>

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
  RunProducts(context, {&product, 1});
}

void RunProducts(LaunchContext& context,
                 std::span<const GroupedProduct> products) {
  if (products.empty()) return;
  const GroupedProduct& first = products.front();
  if (first.num_rows == 0 || first.num_groups == 0) return;
  if (!first.shape.fast) {
    SHOAL_CHECK(RunPlainProduct(context, first) ||
                RunScaledProduct(context, first) ||
                RunBlock32Product(context, first) ||
                RunBlock256Product(context, first));
    RunProducts(context, products.subspan(1));
    return;
  }
  GroupedProduct parts[kMostParts];
  size_t count = 0;
  RoundedInput rounded = first.rounded;
  while (count < std::min(kMostParts, products.size()) &&
         products[count].shape.fast &&
         products[count].shape.dtype == first.shape.dtype) {
    GroupedProduct& part = parts[count];
    part = products[count++];
    if (!NeedsRoundedInput(part)) continue;
    if (rounded.data == nullptr) rounded = RoundInput(context, part);
    part.rounded = rounded;
  }
  const ProductParts launch(parts, count);
  SHOAL_CHECK(RunPlainTensorProducts(context, launch) ||
              RunScaledTensorProducts(context, launch) ||
              RunBlock32TensorProducts(context, launch) ||
              RunBlock256TensorProducts(context, launch));
  // What is left reads the same input.
  if (count == products.size()) return;
  std::vector<GroupedProduct> rest(products.begin() + count, products.end());
  for (GroupedProduct& product : rest) product.rounded = rounded;
  RunProducts(context, rest);
}

}  // namespace shoal::cuda
