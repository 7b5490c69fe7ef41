#include "kernels/cuda/warpgroup_probe.h"

#include <cstring>
#include <vector>

#include "kernels/cuda/linear.h"

namespace shoal::cuda {
namespace {

// Nine steps of 32: an odd number, in segments of two.
constexpr int64_t kWidth = 288;
constexpr int64_t kFeatures = 64;

// Numbers of either sign over some powers of two, always the same.
class Numbers {
 public:
  uint16_t BF16() {
    state_ = state_ * 1664525 + 1013904223;
    const uint32_t exponent = 124 + (state_ >> 27) % 6;
    return static_cast<uint16_t>(state_ >> 31 << 15 | exponent << 7 |
                                 (state_ >> 16 & 0x7f));
  }
  float F32() {
    const uint32_t bits = static_cast<uint32_t>(BF16()) << 16;
    float x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
  }

 private:
  uint32_t state_ = 1;
};

// A product of `num_rows` rows with `num_groups` matrices, all the same one.
class Probe {
 public:
  Probe(LaunchContext& context, int64_t num_groups, int64_t num_rows)
      : context_(context), out_(num_groups * num_rows * kFeatures) {
    Numbers numbers;
    std::vector<uint16_t> weights(kFeatures * kWidth);
    for (uint16_t& w : weights) w = numbers.BF16();
    std::vector<float> in(num_rows * kWidth);
    for (float& x : in) x = numbers.F32();

    auto* const device_weights =
        static_cast<uint8_t*>(OnDevice(weights.data(), 2 * weights.size()));
    const std::vector<WeightPointers> pointers(num_groups, {device_weights});
    product_.shape.dtype = DType::kBF16;
    product_.shape.out_features = kFeatures;
    product_.shape.in_features = kWidth;
    product_.shape.aligned = true;
    product_.shape.fast = true;
    product_.groups = static_cast<const WeightPointers*>(
        OnDevice(pointers.data(), pointers.size() * sizeof(WeightPointers)));
    product_.num_groups = num_groups;
    product_.in = static_cast<const float*>(OnDevice(in.data(), 4 * in.size()));
    product_.in_stride = kWidth;
    product_.out = static_cast<float*>(OnDevice(nullptr, 4 * out_.size()));
    product_.out_stride = kFeatures;
    product_.out_group_stride = num_rows * kFeatures;
    product_.num_rows = num_rows;
  }
  ~Probe() {
    cudaStreamSynchronize(context_.stream());
    for (void* data : memory_) cudaFree(data);
  }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  const std::vector<float>& Run(bool warpgroups) {
    const bool before = context_.has_warpgroups();
    context_.set_has_warpgroups(warpgroups);
    RunProduct(context_, product_);
    context_.set_has_warpgroups(before);
    if (context_.error() == cudaSuccess) {
      context_.Check(cudaMemcpyAsync(out_.data(), product_.out, 4 * out_.size(),
                                     cudaMemcpyDeviceToHost,
                                     context_.stream()));
      context_.Check(cudaStreamSynchronize(context_.stream()));
    }
    return out_;
  }

 private:
  // A copy of `bytes` at `host`, or as many zeros.
  void* OnDevice(const void* host, size_t bytes) {
    void* data = nullptr;
    if (context_.error() != cudaSuccess ||
        !context_.Check(cudaMalloc(&data, bytes))) {
      return nullptr;
    }
    memory_.push_back(data);
    context_.Check(host != nullptr
                       ? cudaMemcpyAsync(data, host, bytes,
                                         cudaMemcpyHostToDevice,
                                         context_.stream())
                       : cudaMemsetAsync(data, 0, bytes, context_.stream()));
    context_.Check(cudaStreamSynchronize(context_.stream()));
    return data;
  }

  LaunchContext& context_;
  GroupedProduct product_;
  std::vector<float> out_;
  std::vector<void*> memory_;
};

bool Agrees(LaunchContext& context, int64_t num_groups, int64_t num_rows) {
  Probe probe(context, num_groups, num_rows);
  const std::vector<float> expected = probe.Run(false);
  const std::vector<float>& got = probe.Run(true);
  return context.error() == cudaSuccess &&
         std::memcmp(expected.data(), got.data(), 4 * got.size()) == 0;
}

}  // namespace

bool WarpgroupsAgree(LaunchContext& context) {
  context.Begin("WarpgroupsAgree");
  int major = 0;
  if (!context.Check(cudaDeviceGetAttribute(
          &major, cudaDevAttrComputeCapabilityMajor, 0)) ||
      major != 9) {
    return false;
  }
  // Few products are cut into small tiles, many into large ones.
  return Agrees(context, 1, 40) &&
         Agrees(context, 2 * context.num_multiprocessors(), 100);
}

}  // namespace shoal::cuda
