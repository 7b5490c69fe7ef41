// The CUDA kernel table as the op tests' only one: over the shim or over a GPU,
// whichever the binary is linked with.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "kernels/cuda/cuda_table.h"
#include "tests/kernels/op_test_support.h"
#include "tests/simt/mirrored_table.h"

namespace shoal {
namespace {

TestedTable Tested(std::string name, CudaWarpgroups warpgroups) {
  // Either is rounded to the eight bits of bf16: by half of the last one.
  constexpr double kFastError = 2.0 / 256;
  return {std::move(name), nullptr,
          [warpgroups]() -> std::unique_ptr<KernelTable> {
            CudaOptions options;
            options.chunk_bytes = 64 << 10;  // ends of buffers lie close
            options.warpgroups = warpgroups;
            auto table = MakeCudaKernelTable(options);
            if (!table.ok()) {
              std::fprintf(stderr, "%s\n",
                           std::string(table.status().message()).c_str());
              std::abort();
            }
            return std::make_unique<MirroredTable>(*std::move(table));
          },
          kFastError};
}

}  // namespace

std::vector<TestedTable> TestedTables() {
  TestedTable without = Tested("cuda_without_warpgroups", CudaWarpgroups::kOff);
  without.only_products = true;
  return {Tested("cuda", CudaWarpgroups::kOn), std::move(without)};
}

}  // namespace shoal
