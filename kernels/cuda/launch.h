// LaunchContext is where the launchers of kernels/cuda put their work: one
// stream, its scratch memory, and the first error that a launch met. Launchers
// return nothing; whoever owns the context asks it for the error.
// Threads: one caller at a time.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace shoal::cuda {

// Where one matrix of a group lies on the device.
struct WeightPointers {
  const uint8_t* data = nullptr;
  const uint8_t* scales = nullptr;

  bool operator==(const WeightPointers&) const = default;
};

// Scratch memory of an op, of the ops that one is made of, and of products.
enum class ScratchUse : uint8_t { kOp, kLatent, kInput };

class DenseGemm;

// What may run by warpgroups (warpgroup.cuh): products of many rows, and
// attention of many rows.
struct WarpgroupUse {
  bool products = false;
  bool attention = false;

  bool operator==(const WarpgroupUse&) const = default;
};

class LaunchContext {
 public:
  // A stream on the present device. Failures show in error().
  LaunchContext();
  ~LaunchContext();
  LaunchContext(const LaunchContext&) = delete;
  LaunchContext& operator=(const LaunchContext&) = delete;

  cudaStream_t stream() const { return stream_; }
  int num_multiprocessors() const { return num_multiprocessors_; }
  const WarpgroupUse& warpgroups() const { return warpgroups_; }
  void set_warpgroups(const WarpgroupUse& use) { warpgroups_ = use; }
  // What dense products of many rows go to first, if anything.
  DenseGemm* dense_gemm() const { return dense_gemm_; }
  void set_dense_gemm(DenseGemm* gemm) { dense_gemm_ = gemm; }

  // The first error, and the op that met it.
  cudaError_t error() const { return error_; }
  std::string ErrorText() const;

  // Names the op that what follows belongs to. `name` must be a literal.
  void Begin(const char* name) { op_ = name; }
  // Keeps `error` if it is the first; true if it is none.
  bool Check(cudaError_t error);

  // Memory for `bytes` until the next call of the same use: work queued before
  // may still use it, so ops that come later in the stream may too. nullptr
  // after an error.
  void* Scratch(int64_t bytes, ScratchUse use = ScratchUse::kOp);

  // kCounters counters on the device, all zero between kernels: one that counts
  // in them leaves them so (LastBlock()).
  static constexpr int kCounters = 4096;
  unsigned* counters() const { return counters_; }

  // Changes when memory moves that work queued before may have pointed at.
  uint64_t generation() const { return generation_; }

  // A copy of `weights` on the device, made when they are new to `key`.
  const WeightPointers* OnDevice(const void* key,
                                 const std::vector<WeightPointers>& weights);

  // Queues `kernel` with `shared_bytes` of dynamic shared memory.
  template <typename... Params, typename... Args>
  void Launch(void (*kernel)(Params...), dim3 grid, unsigned threads,
              size_t shared_bytes, Args&&... args) {
    if (error_ != cudaSuccess) return;
    if (shared_bytes > kDefaultSharedBytes &&
        !Check(cudaFuncSetAttribute(kernel,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)))) {
      return;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream_;
    Check(cudaLaunchKernelEx(&config, kernel, static_cast<Args&&>(args)...));
  }

 private:
  static constexpr size_t kDefaultSharedBytes = 48 << 10;

  struct PointerTable {
    const void* key = nullptr;
    std::vector<WeightPointers> host;
    WeightPointers* device = nullptr;
  };

  cudaStream_t stream_ = nullptr;
  int num_multiprocessors_ = 1;
  WarpgroupUse warpgroups_;
  DenseGemm* dense_gemm_ = nullptr;
  cudaError_t error_ = cudaSuccess;
  const char* failed_op_ = "";
  const char* op_ = "start";
  struct ScratchMemory {
    void* data = nullptr;
    int64_t bytes = 0;
  };
  ScratchMemory scratch_[3];  // by use
  unsigned* counters_ = nullptr;
  std::vector<PointerTable> tables_;  // sorted by key
  uint64_t generation_ = 0;
};

}  // namespace shoal::cuda
