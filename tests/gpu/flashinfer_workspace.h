// What the steps of FlashInfer share: types, and memory to plan in.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "tests/gpu/flashinfer.h"

namespace shoal {

using BF16 = __nv_bfloat16;

// FlashInfer takes its inputs as it takes its results.
inline BF16* AsBF16(const uint16_t* data) {
  return reinterpret_cast<BF16*>(const_cast<uint16_t*>(data));
}

class FlashInferWorkspace {
 public:
  static constexpr size_t kFloatBytes = size_t{256} << 20;
  static constexpr size_t kIntBytes = size_t{16} << 20;

  FlashInferWorkspace() {
    ok_ = cudaMalloc(&floats_, kFloatBytes) == cudaSuccess &&
          cudaMalloc(&ints_, kIntBytes) == cudaSuccess &&
          cudaMallocHost(&host_ints_, kIntBytes) == cudaSuccess;
  }
  ~FlashInferWorkspace() {
    cudaDeviceSynchronize();
    cudaFree(floats_);
    cudaFree(ints_);
    cudaFreeHost(host_ints_);
    for (void* copy : copies_) cudaFree(copy);
  }
  FlashInferWorkspace(const FlashInferWorkspace&) = delete;
  FlashInferWorkspace& operator=(const FlashInferWorkspace&) = delete;

  bool ok() const { return ok_; }
  void* floats() const { return floats_; }
  void* ints() const { return ints_; }
  void* host_ints() const { return host_ints_; }
  // What a plan says the byte offset of.
  int32_t* Ints(int64_t offset) const {
    return reinterpret_cast<int32_t*>(static_cast<uint8_t*>(ints_) + offset);
  }
  template <typename T>
  T* Floats(int64_t offset) const {
    return reinterpret_cast<T*>(static_cast<uint8_t*>(floats_) + offset);
  }

  int32_t* OnDevice(const std::vector<int32_t>& values) {
    void* copy = nullptr;
    const size_t bytes = values.size() * sizeof(int32_t);
    if (cudaMalloc(&copy, bytes) != cudaSuccess) {
      ok_ = false;
      return nullptr;
    }
    copies_.push_back(copy);
    ok_ = ok_ && cudaMemcpy(copy, values.data(), bytes,
                            cudaMemcpyHostToDevice) == cudaSuccess;
    return static_cast<int32_t*>(copy);
  }

 private:
  bool ok_ = false;
  void* floats_ = nullptr;
  void* ints_ = nullptr;
  void* host_ints_ = nullptr;
  std::vector<void*> copies_;
};

// nullptr after an error of the device.
template <typename Step>
std::unique_ptr<FlashInferStep> Planned(const PeerAttention& work) {
  auto step = std::make_unique<Step>();
  if (step->Plan(work) != cudaSuccess) return nullptr;
  return step;
}

}  // namespace shoal
