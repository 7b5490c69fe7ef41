// Activations rounded to bf16 for products of many rows; see linear.h.
#include "kernels/cuda/linear_steps.cuh"

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

__device__ __forceinline__ void StoreUnit(uint16_t* to, const float* x) {
  *reinterpret_cast<uint4*>(to) = {PackBF16(x[0], x[1]), PackBF16(x[2], x[3]),
                                   PackBF16(x[4], x[5]), PackBF16(x[6], x[7])};
}

// Grid: rows, groups. A thread rounds eight values at a time.
template <InputOrder kOrder>
__global__ __launch_bounds__(kThreads) void RoundInputKernel(RoundArgs a) {
  const float* in =
      a.in + blockIdx.x * a.in_stride + blockIdx.y * a.in_group_stride;
  uint16_t* out =
      a.out + (int64_t{blockIdx.y} * a.num_rows + blockIdx.x) * a.width;
  for (int64_t to = int64_t{threadIdx.x} * kUnit; to < a.width;
       to += kThreads * kUnit) {
    float x[kUnit];
    if constexpr (kOrder == InputOrder::kWidth) {
      LoadInput8(in, to, a.in_features, a.in_aligned, x);
    } else {
      // Of a step's four units unit `part` has the pair 2 · part of each.
      const auto step = static_cast<int32_t>(to / kStep);
      const int part = static_cast<int>(to % kStep / kUnit);
#pragma unroll
      for (int unit = 0; unit < kStep / kUnit; ++unit) {
        const int64_t k = (kOrder == InputOrder::kStepsOfBlocks
                               ? UnitAt<DType::kQ4_0>(step, unit)
                               : UnitAt<DType::kBF16>(step, unit)) +
                          2 * part;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          x[2 * unit + i] = k + i < a.in_features ? in[k + i] : 0.0f;
        }
      }
    }
    StoreUnit(out + to, x);
  }
}

}  // namespace

RoundedInput RoundInput(LaunchContext& context, const GroupedProduct& product,
                        InputOrder order) {
  RoundArgs a;
  a.in = product.in;
  a.in_stride = product.in_stride;
  a.in_group_stride = product.in_group_stride;
  a.in_features = product.shape.in_features;
  a.in_aligned = InputIsAligned(product);
  a.width = (a.in_features + kWidthUnit - 1) / kWidthUnit * kWidthUnit;
  a.num_rows = product.num_rows / product.source_divisor;
  // Groups whose rows are their own share one array of them.
  const bool shared = product.tiles != nullptr || product.num_groups == 1;
  const int64_t groups = shared ? 1 : product.num_groups;
  a.out = static_cast<uint16_t*>(
      context.Scratch(2 * groups * a.num_rows * a.width, ScratchUse::kInput));
  const dim3 grid(static_cast<unsigned>(a.num_rows),
                  static_cast<unsigned>(groups));
  const auto kernel = order == InputOrder::kWidth
                          ? RoundInputKernel<InputOrder::kWidth>
                      : order == InputOrder::kSteps
                          ? RoundInputKernel<InputOrder::kSteps>
                          : RoundInputKernel<InputOrder::kStepsOfBlocks>;
  context.Launch(kernel, grid, kThreads, 0, a);
  return {a.out, a.width, shared ? 0 : a.num_rows, order};
}

}  // namespace shoal::cuda
