// Activations rounded to bf16 for products of many rows; see linear.h.
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace shoal::cuda {
namespace {

constexpr unsigned kThreads = 128;
constexpr int64_t kWidthUnit = 128;  // whole steps of the products

struct RoundArgs {
  const float* in;
  int64_t in_stride, in_group_stride, in_features;
  bool in_aligned;
  uint16_t* out;
  int64_t width, num_rows;
};

// Grid: rows, groups. A thread rounds eight neighbours at a time.
__global__ __launch_bounds__(kThreads) void RoundInputKernel(RoundArgs a) {
  const float* in =
      a.in + blockIdx.x * a.in_stride + blockIdx.y * a.in_group_stride;
  uint16_t* out =
      a.out + (int64_t{blockIdx.y} * a.num_rows + blockIdx.x) * a.width;
  for (int64_t k = int64_t{threadIdx.x} * kUnit; k < a.width;
       k += kThreads * kUnit) {
    float x[kUnit];
    LoadInput8(in, k, a.in_features, a.in_aligned, x);
    *reinterpret_cast<uint4*>(out + k) = {
        PackBF16(x[0], x[1]), PackBF16(x[2], x[3]), PackBF16(x[4], x[5]),
        PackBF16(x[6], x[7])};
  }
}

}  // namespace

RoundedInput RoundInput(LaunchContext& context, const GroupedProduct& product) {
  RoundArgs a;
  a.in = product.in;
  a.in_stride = product.in_stride;
  a.in_group_stride = product.in_group_stride;
  a.in_features = product.shape.in_features;
  a.in_aligned = InputIsAligned(product);
  a.width = (a.in_features + kWidthUnit - 1) / kWidthUnit * kWidthUnit;
  a.num_rows = product.num_rows / product.source_divisor;
  // Groups whose rows are their own share one array of them.
  const bool shared = product.active != nullptr || product.num_groups == 1;
  const int64_t groups = shared ? 1 : product.num_groups;
  a.out = static_cast<uint16_t*>(
      context.Scratch(2 * groups * a.num_rows * a.width, ScratchUse::kInput));
  context.Launch(
      RoundInputKernel,
      dim3(static_cast<unsigned>(a.num_rows), static_cast<unsigned>(groups)),
      kThreads, 0, a);
  return {a.out, a.width, shared ? 0 : a.num_rows};
}

}  // namespace shoal::cuda
