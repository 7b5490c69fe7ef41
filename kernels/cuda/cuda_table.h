// Makes the kernel table of the first CUDA device. Weights stay as they are
// stored and are decoded inside the products; activations are f32.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/kernel_table.h"

namespace shoal {

// Products and attention of many rows by warpgroups, which only Hopper has.
enum class CudaWarpgroups : uint8_t {
  kOff,
  kOn,    // REQUIRES: a device that has them
  kAuto,  // each if it gives the bits of the other kernels in a test
};

struct CudaOptions {
  // What the device's memory is taken from the driver by.
  int64_t chunk_bytes = int64_t{64} << 20;
  CudaWarpgroups warpgroups = CudaWarpgroups::kAuto;
  // False: dense products of many rows go to cuBLASLt; see dense_gemm.h.
  bool batch_invariant = true;
};

// FailedPrecondition where there is no driver or no device, NotFound where
// cuBLASLt is asked for and not here, with the reason.
absl::StatusOr<std::unique_ptr<KernelTable>> MakeCudaKernelTable(
    const CudaOptions& options = {});

}  // namespace shoal
