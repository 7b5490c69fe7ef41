// Makes the CPU's kernel table for an instruction set chosen at run time.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/kernel_table.h"

namespace shoal {

enum class CpuIsa : uint8_t {
  kScalar,  // portable reference, the one held to the goldens
  kAvx2,    // AVX2 + FMA + F16C
  kAvx512,  // AVX-512 F/BW/VL/DQ + VNNI + BF16
};

std::string_view CpuIsaName(CpuIsa isa);

// Parses "auto", "scalar", "avx2" or "avx512"; auto is the best this machine
// runs. InvalidArgument for another word; FailedPrecondition naming the missing
// instructions if this machine lacks the set.
absl::StatusOr<CpuIsa> ChooseCpuIsa(std::string_view name);

// A table with `num_threads` workers (the caller counts as one of them).
// REQUIRES: num_threads >= 1 and the machine runs `isa`.
std::unique_ptr<KernelTable> MakeCpuKernelTable(CpuIsa isa, int num_threads);
// The same over any set of inner kernels; `ops` must outlive the table.
std::unique_ptr<KernelTable> MakeCpuKernelTable(const CpuOps& ops,
                                                int num_threads);

}  // namespace shoal
