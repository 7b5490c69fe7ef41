#include "kernels/cuda/linear.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/dense_gemm.h"
#include "kernels/cuda/row_ops.h"

namespace shoal::cuda {

namespace {

void RunTensorProducts(LaunchContext& context, const ProductParts& parts,
                       RoundedInput& rounded) {
  SHOAL_CHECK(RunPlainTensorProducts(context, parts, rounded) ||
              RunScaledTensorProducts(context, parts, rounded) ||
              RunBlock32TensorProducts(context, parts, rounded) ||
              RunBlock256TensorProducts(context, parts, rounded));
}

}  // namespace

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
  RoundedInput rounded;  // of the input that all read
  while (!products.empty()) {
    const GroupedProduct& first = products.front();
    if (first.num_rows == 0 || first.num_groups == 0) return;
    if (const int64_t rows = context.dense_gemm() != nullptr
                                 ? context.dense_gemm()->Run(first, rounded)
                                 : 0;
        rows > 0) {
      GroupedProduct rest = first;
      rest.in += rows * rest.in_stride;
      rest.out += rows * rest.out_stride;
      rest.num_rows -= rows;
      RunProduct(context, rest);
      products = products.subspan(1);
      continue;
    }
    if (!first.shape.fast) {
      SHOAL_CHECK(RunPlainProduct(context, first) ||
                  RunScaledProduct(context, first) ||
                  RunBlock32Product(context, first) ||
                  RunBlock256Product(context, first));
      products = products.subspan(1);
      continue;
    }
    size_t count = 0;
    while (count < std::min(kMostParts, products.size()) &&
           products[count].shape.fast &&
           products[count].shape.dtype == first.shape.dtype) {
      ++count;
    }
    RunTensorProducts(context, products.first(count), rounded);
    products = products.subspan(count);
  }
}

void RunGatedProducts(LaunchContext& context, GroupedProduct gate,
                      const GroupedProduct& up, float limit,
                      const int32_t* num_rows) {
  // A decode step is short of launches, not of arithmetic: there the product
  // that has both sums gates one with the other.
  gate.gates = CanRunBeside(gate, up);
  gate.gate_limit = limit;
  const GroupedProduct parts[] = {gate, up};
  RunProducts(context, parts);
  if (gate.gates) return;
  SiluMulParams silu;
  silu.gate = gate.out;
  silu.up = up.out;
  silu.out = gate.out;
  silu.num_tokens = gate.num_rows;
  silu.width = gate.shape.out_features;
  silu.limit = limit;
  SiluMul(context, silu, num_rows);
}

bool CanRunBeside(const GroupedProduct& one, const GroupedProduct& other) {
  return one.shape.fast && other.shape.fast &&
         one.shape.dtype == other.shape.dtype && !NeedsRoundedInput(one) &&
         !NeedsRoundedInput(other);
}

void RunGatedBeside(LaunchContext& context,
                    std::span<const GroupedProduct, 2> gate_up,
                    std::span<const GroupedProduct, 2> beside, float limit) {
  GroupedProduct parts[] = {gate_up[0], gate_up[1], beside[0], beside[1]};
  parts[0].gates = parts[2].gates = true;
  parts[0].gate_limit = parts[2].gate_limit = limit;
  parts[2].beside = true;
  RoundedInput none;
  RunTensorProducts(context, parts, none);
}

void RunBeside(LaunchContext& context, const GroupedProduct& product,
               GroupedProduct beside) {
  beside.beside = true;
  const GroupedProduct parts[] = {product, beside};
  RoundedInput none;
  RunTensorProducts(context, parts, none);
}

}  // namespace shoal::cuda
