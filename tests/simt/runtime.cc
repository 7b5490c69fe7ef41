// The CUDA runtime's calls over the shim's machine.
#include <cuda_runtime.h>

#include <cstdlib>
#include <map>
#include <utility>
#include <vector>

struct ShoalSimtGraph {
  std::vector<std::function<cudaError_t()>> work;
};

namespace {

// A GPU small enough that persistent grids are quick to run.
constexpr int kMultiprocessors = 3;
constexpr int kComputeCapability = 9;  // Hopper's
constexpr size_t kDefaultSharedBytes = 48 << 10;

cudaError_t State() {
  return shoal::simt::HasFailed() ? cudaErrorLaunchFailure : cudaSuccess;
}

// Of the stream that is captured, if one is.
ShoalSimtGraph* captured = nullptr;

// Of calls that a captured stream allows none of.
cudaError_t StateOutsideCapture() {
  return captured != nullptr ? cudaErrorStreamCaptureUnsupported : State();
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
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorUnknown:
      return "unknown error";
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
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? kMultiprocessors
                                                       : kComputeCapability;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = shoal::simt::FreeDeviceBytes();
  *total = shoal::simt::kDeviceBytes;
  return State();
}
cudaError_t cudaMalloc(void** data, size_t bytes) {
  if (StateOutsideCapture() != cudaSuccess) return StateOutsideCapture();
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
  return ShoalSimtQueue([=] {
    const shoal::simt::OpenDevice open;
    std::memcpy(to, from, bytes);
    return cudaSuccess;
  });
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  if (State() != cudaSuccess) return State();
  if (!shoal::simt::IsDevice(data, bytes)) return cudaErrorInvalidValue;
  return ShoalSimtQueue([=] {
    const shoal::simt::OpenDevice open;
    std::memset(data, value, bytes);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return State();
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return State(); }
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return StateOutsideCapture();
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = nullptr;
  return State();
}
cudaError_t cudaEventDestroy(cudaEvent_t) { return State(); }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return State(); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return StateOutsideCapture(); }

cudaError_t ShoalSimtQueue(std::function<cudaError_t()> work) {
  if (captured == nullptr) return work();
  captured->work.push_back(std::move(work));
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  if (StateOutsideCapture() != cudaSuccess) return StateOutsideCapture();
  captured = new ShoalSimtGraph;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  if (captured == nullptr) return cudaErrorInvalidValue;
  *graph = std::exchange(captured, nullptr);
  return State();
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long) {
  *exec = new ShoalSimtGraph(*graph);
  return State();
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return State();
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return State();
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  for (const auto& work : exec->work) {
    if (const cudaError_t error = work(); error != cudaSuccess) return error;
  }
  return State();
}

size_t ShoalSimtSharedLimit(const void* kernel) {
  const auto it = SharedLimits().find(kernel);
  return it == SharedLimits().end() ? kDefaultSharedBytes : it->second;
}
cudaError_t ShoalSimtSetSharedLimit(const void* kernel, int bytes) {
  if (bytes < 0 || bytes > 227 << 10) return cudaErrorInvalidValue;
  SharedLimits()[kernel] = static_cast<size_t>(bytes);
  return cudaSuccess;
}
