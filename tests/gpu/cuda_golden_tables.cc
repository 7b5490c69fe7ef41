// The CUDA kernel table as the goldens' only one.
#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/cuda_table.h"
#include "tests/engine/golden_model.h"

namespace shoal {

std::vector<TestTable> AllTables() {
  return {TestTable("cuda", [] {
    auto table = MakeCudaKernelTable();
    if (!table.ok()) {
      std::fprintf(stderr, "%s\n",
                   std::string(table.status().message()).c_str());
      std::abort();
    }
    return *std::move(table);
  })};
}

std::vector<TestTable> EngineTables() { return AllTables(); }

std::vector<TestTable> TablesOfEachMemory() { return AllTables(); }

}  // namespace shoal
