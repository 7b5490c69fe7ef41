// Memory of probes and tests of launchers, which run before there is an arena.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/launch.h"

namespace shoal::cuda {

// What a probe has on the device, and what it brings back from there. Failures
// show in the context. Threads: as LaunchContext.
class ProbeMemory {
 public:
  explicit ProbeMemory(LaunchContext& context) : context_(context) {}
  ~ProbeMemory() {
    cudaStreamSynchronize(context_.stream());
    for (void* data : memory_) cudaFree(data);
  }
  ProbeMemory(const ProbeMemory&) = delete;
  ProbeMemory& operator=(const ProbeMemory&) = delete;

  template <typename T>
  const T* Copy(const std::vector<T>& host) {
    void* data = Allocate(host.size() * sizeof(T));
    if (data != nullptr) {
      context_.Check(cudaMemcpyAsync(data, host.data(), host.size() * sizeof(T),
                                     cudaMemcpyHostToDevice,
                                     context_.stream()));
      context_.Check(cudaStreamSynchronize(context_.stream()));
    }
    return static_cast<const T*>(data);
  }
  float* Floats(int64_t count) {
    void* data = Allocate(count * sizeof(float));
    if (data != nullptr) {
      context_.Check(
          cudaMemsetAsync(data, 0, count * sizeof(float), context_.stream()));
    }
    return static_cast<float*>(data);
  }
  std::vector<float> Read(const float* device, int64_t count) {
    std::vector<float> host(count);
    if (context_.error() == cudaSuccess) {
      context_.Check(cudaMemcpyAsync(host.data(), device, count * sizeof(float),
                                     cudaMemcpyDeviceToHost,
                                     context_.stream()));
      context_.Check(cudaStreamSynchronize(context_.stream()));
    }
    return host;
  }

 private:
  void* Allocate(size_t bytes) {
    void* data = nullptr;
    if (context_.error() != cudaSuccess ||
        !context_.Check(cudaMalloc(&data, bytes))) {
      return nullptr;
    }
    memory_.push_back(data);
    return data;
  }

  LaunchContext& context_;
  std::vector<void*> memory_;
};

}  // namespace shoal::cuda
