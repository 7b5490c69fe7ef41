// The CUDA runtime's calls over the shim's machine.
#include <cuda_runtime.h>

#include <cstdlib>
#include <map>

namespace {

// A GPU small enough that persistent grids are quick to run.
constexpr int kMultiprocessors = 3;
constexpr size_t kDefaultSharedBytes = 48 << 10;

cudaError_t State() {
  return shoal::simt::HasFailed() ? cudaErrorLaunchFailure : cudaSuccess;
}

std::map<const void*, size_t>& SharedLimits() {
  static auto* limits = new std::map<const void*, size_t>;
  return *limits;
}

}  // namespace

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
  }
  return "unrecognized error code";
}

cudaError_t cudaGetLastError() { return State(); }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = kMultiprocessors;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = shoal::simt::FreeDeviceBytes();
  *total = shoal::simt::kDeviceBytes;
  return State();
}
cudaError_t cudaMalloc(void** data, size_t bytes) {
  if (State() != cudaSuccess) return State();
  *data = shoal::simt::AllocateDevice(bytes);
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  if (data != nullptr) shoal::simt::FreeDevice(data);
  return State();
}
cudaError_t cudaMallocHost(void** data, size_t bytes) {
  *data = std::malloc(bytes);
  return *data == nullptr ? cudaErrorMemoryAllocation : State();
}
cudaError_t cudaFreeHost(void* data) {
  std::free(data);
  return State();
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t) {
  if (State() != cudaSuccess) return State();
  const bool upload = kind == cudaMemcpyHostToDevice;
  if (!shoal::simt::IsDevice(upload ? to : from, bytes)) {
    return cudaErrorInvalidValue;
  }
  const shoal::simt::OpenDevice open;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  if (State() != cudaSuccess) return State();
  if (!shoal::simt::IsDevice(data, bytes)) return cudaErrorInvalidValue;
  const shoal::simt::OpenDevice open;
  std::memset(data, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return State();
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return State(); }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return State(); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = nullptr;
  return State();
}
cudaError_t cudaEventDestroy(cudaEvent_t) { return State(); }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return State(); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return State(); }

size_t ShoalSimtSharedLimit(const void* kernel) {
  const auto it = SharedLimits().find(kernel);
  return it == SharedLimits().end() ? kDefaultSharedBytes : it->second;
}
cudaError_t ShoalSimtSetSharedLimit(const void* kernel, int bytes) {
  if (bytes < 0 || bytes > 227 << 10) return cudaErrorInvalidValue;
  SharedLimits()[kernel] = static_cast<size_t>(bytes);
  return cudaSuccess;
}
