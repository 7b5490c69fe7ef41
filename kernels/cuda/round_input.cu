// Activations rounded to bf16, or to FP8, for products of many rows; see
// linear.h.
#include "kernels/cuda/linear_steps.cuh"

namespace shoal::cuda {
namespace {

constexpr unsigned kThreads = 128;
constexpr int kScaleBlock = 128;  // values of E4M3 that share a scale
constexpr float kMaxE4M3 = 448;

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
template <InputForm kForm>
__global__ __launch_bounds__(kThreads) void RoundInputKernel(RoundArgs a) {
  const float* in =
      a.in + blockIdx.x * a.in_stride + blockIdx.y * a.in_group_stride;
  uint16_t* out =
      a.out + (int64_t{blockIdx.y} * a.num_rows + blockIdx.x) * a.width;
  for (int64_t to = int64_t{threadIdx.x} * kUnit; to < a.width;
       to += kThreads * kUnit) {
    float x[kUnit];
    if constexpr (kForm == InputForm::kWidth) {
      LoadInput8(in, to, a.in_features, a.in_aligned, x);
    } else {
      // Of a step's four units unit `part` has the pair 2 · part of each.
      const auto step = static_cast<int32_t>(to / kStep);
      const int part = static_cast<int>(to % kStep / kUnit);
#pragma unroll
      for (int unit = 0; unit < kStep / kUnit; ++unit) {
        const int64_t k = (kForm == InputForm::kStepsOfBlocks
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

// Grid: rows. A warp rounds a block of a scale at a time, a lane four of its
// values. Source of the scale: DeepSeek-V3's inference/kernel.py, act_quant().
__global__ __launch_bounds__(kThreads) void RoundInputToE4M3Kernel(
    RoundArgs a, float* scales) {
  const float* in = a.in + blockIdx.x * a.in_stride;
  auto* out = reinterpret_cast<uint32_t*>(a.out) + blockIdx.x * a.width / 4;
  const int lane = threadIdx.x % kWarpSize;
  for (int64_t block = threadIdx.x / kWarpSize; block < a.width / kScaleBlock;
       block += kThreads / kWarpSize) {
    const int64_t at = block * (kScaleBlock / 4) + lane;
    float x[4];
    float largest = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = in[4 * at + i];
      largest = fmaxf(largest, fabsf(x[i]));
    }
    largest = WarpMax(largest);
    const float scale = largest > 0 ? largest / kMaxE4M3 : 1.0f;
    out[at] = NarrowE4M3(x[0] / scale, x[1] / scale) |
              NarrowE4M3(x[2] / scale, x[3] / scale) << 16;
    if (lane == 0) scales[block * gridDim.x + blockIdx.x] = scale;
  }
}

}  // namespace

RoundedInput RoundInput(LaunchContext& context, const GroupedProduct& product,
                        InputForm form) {
  RoundArgs a;
  a.in = product.in;
  a.in_stride = product.in_stride;
  a.in_group_stride = product.in_group_stride;
  a.in_features = product.shape.in_features;
  a.in_aligned = InputIsAligned(product);
  a.width = RoundedWidth(a.in_features);
  a.num_rows = product.num_rows / product.source_divisor;
  // Groups whose rows are their own share one array of them.
  const bool shared = product.tiles != nullptr || product.num_groups == 1;
  const int64_t groups = shared ? 1 : product.num_groups;
  const int64_t values = groups * a.num_rows * a.width;
  a.out =
      static_cast<uint16_t*>(context.Scratch(2 * values, ScratchUse::kInput));
  const dim3 grid(static_cast<unsigned>(a.num_rows),
                  static_cast<unsigned>(groups));
  if (form == InputForm::kE4M3) {
    // Half of the memory has the values.
    auto* scales = reinterpret_cast<float*>(a.out + values / 2);
    context.Launch(RoundInputToE4M3Kernel, grid, kThreads, 0, a, scales);
    return {a.out, a.width, 0, form, scales};
  }
  const auto kernel =
      form == InputForm::kWidth   ? RoundInputKernel<InputForm::kWidth>
      : form == InputForm::kSteps ? RoundInputKernel<InputForm::kSteps>
                                  : RoundInputKernel<InputForm::kStepsOfBlocks>;
  context.Launch(kernel, grid, kThreads, 0, a);
  return {a.out, a.width, shared ? 0 : a.num_rows, form};
}

}  // namespace shoal::cuda
