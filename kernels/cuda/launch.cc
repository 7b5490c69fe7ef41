#include "kernels/cuda/launch.h"

#include <algorithm>

namespace shoal::cuda {

LaunchContext::LaunchContext() {
  Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  Check(cudaDeviceGetAttribute(&num_multiprocessors_,
                               cudaDevAttrMultiProcessorCount, 0));
  constexpr size_t kBytes = kCounters * sizeof(unsigned);
  void* counters = nullptr;
  if (Check(cudaMalloc(&counters, kBytes))) {
    counters_ = static_cast<unsigned*>(counters);
    Check(cudaMemsetAsync(counters, 0, kBytes, stream_));
  }
}

LaunchContext::~LaunchContext() {
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  for (const PointerTable& table : tables_) cudaFree(table.device);
  for (const ScratchMemory& scratch : scratch_) cudaFree(scratch.data);
  cudaFree(counters_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

bool LaunchContext::Check(cudaError_t error) {
  if (error == cudaSuccess) return true;
  if (error_ == cudaSuccess) {
    error_ = error;
    failed_op_ = op_;
  }
  return false;
}

std::string LaunchContext::ErrorText() const {
  return std::string(failed_op_) + ": " + cudaGetErrorString(error_);
}

void* LaunchContext::Scratch(int64_t bytes, ScratchUse use) {
  if (error_ != cudaSuccess) return nullptr;
  ScratchMemory& scratch = scratch_[static_cast<int>(use)];
  if (bytes <= scratch.bytes) return scratch.data;
  // Half as much again: sizes follow the batch, and growing waits.
  const int64_t wanted = std::max(bytes, scratch.bytes + scratch.bytes / 2);
  Check(cudaStreamSynchronize(stream_));
  Check(cudaFree(scratch.data));
  ++generation_;
  scratch = ScratchMemory();
  if (Check(cudaMalloc(&scratch.data, static_cast<size_t>(wanted)))) {
    scratch.bytes = wanted;
  }
  return scratch.data;
}

const WeightPointers* LaunchContext::OnDevice(
    const void* key, const std::vector<WeightPointers>& weights) {
  auto table = std::lower_bound(
      tables_.begin(), tables_.end(), key,
      [](const PointerTable& table, const void* k) { return table.key < k; });
  if (table == tables_.end() || table->key != key) {
    table = tables_.insert(table, PointerTable());
    table->key = key;
  }
  if (table->host == weights) return table->device;
  const size_t bytes = weights.size() * sizeof(WeightPointers);
  if (table->host.size() != weights.size()) {
    Check(cudaStreamSynchronize(stream_));  // who reads the old ones is done
    Check(cudaFree(table->device));
    ++generation_;
    table->device = nullptr;
    table->host.clear();
    void* device = nullptr;
    if (!Check(cudaMalloc(&device, bytes))) return nullptr;
    table->device = static_cast<WeightPointers*>(device);
  }
  table->host = weights;
  // In the stream's order: who reads the old ones comes before.
  Check(cudaMemcpyAsync(table->device, table->host.data(), bytes,
                        cudaMemcpyHostToDevice, stream_));
  return table->device;
}

}  // namespace shoal::cuda
