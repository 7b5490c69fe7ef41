// The CUDA kernel table for the kernel benches, and the ceilings of its device:
//   machine/copy                within the device's memory, read and written
//   machine/to-device, /from-device
//                               over the link, from and to pinned memory
// and FlashInfer's attention, where the build has it (flashinfer_bench.cc).
// With SHOAL_BENCH_WITHOUT_WARPGROUPS set, products without warpgroups; with
// SHOAL_BENCH_CUBLASLT, dense ones of many rows by cuBLASLt, the peer of ours.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "kernels/cuda/cuda_table.h"
#include "tests/bench/kernels_bench.h"

namespace shoal {

// flashinfer_bench.cc
void RegisterFlashInfer();

namespace {

constexpr int64_t kBytes = int64_t{1} << 30;

void Copy(benchmark::State& state, cudaMemcpyKind kind, int64_t moved) {
  void *from = nullptr, *to = nullptr;
  const bool made =
      (kind == cudaMemcpyHostToDevice
           ? cudaMallocHost(&from, kBytes)
           : cudaMalloc(&from, kBytes)) == cudaSuccess &&
      (kind == cudaMemcpyDeviceToHost ? cudaMallocHost(&to, kBytes)
                                      : cudaMalloc(&to, kBytes)) == cudaSuccess;
  if (!made) {
    state.SkipWithError("no memory");
    return;
  }
  for (auto _ : state) {
    cudaMemcpyAsync(to, from, kBytes, kind, nullptr);
    cudaStreamSynchronize(nullptr);
  }
  state.SetBytesProcessed(state.iterations() * moved);
  kind == cudaMemcpyHostToDevice ? cudaFreeHost(from) : cudaFree(from);
  kind == cudaMemcpyDeviceToHost ? cudaFreeHost(to) : cudaFree(to);
}

}  // namespace

KernelTable& BenchTable() {
  static const std::unique_ptr<KernelTable> table = [] {
    CudaOptions options;
    if (std::getenv("SHOAL_BENCH_WITHOUT_WARPGROUPS") != nullptr) {
      options.warpgroups = CudaWarpgroups::kOff;
    }
    options.batch_invariant = std::getenv("SHOAL_BENCH_CUBLASLT") == nullptr;
    auto made = MakeCudaKernelTable(options);
    if (!made.ok()) {
      std::fprintf(stderr, "%s\n",
                   std::string(made.status().message()).c_str());
      std::exit(1);
    }
    return *std::move(made);
  }();
  return *table;
}

void RegisterMachine() {
  const auto copy = [](const char* name, cudaMemcpyKind kind, int64_t moved) {
    RegisterBench(name,
                  [=](benchmark::State& state) { Copy(state, kind, moved); });
  };
  copy("machine/copy", cudaMemcpyDeviceToDevice, 2 * kBytes);
  copy("machine/to-device", cudaMemcpyHostToDevice, kBytes);
  copy("machine/from-device", cudaMemcpyDeviceToHost, kBytes);
#if defined(SHOAL_WITH_FLASHINFER)
  RegisterFlashInfer();
#endif
}

}  // namespace shoal
