// The CPU's tables: every instruction set that this machine runs, and AVX-512
// by emulation, on one thread and on two.
#include "tests/kernels/isa_avx512_emulated.h"
#include "tests/kernels/op_test_support.h"

namespace shoal {
namespace {

std::vector<const CpuOps*> TestedOps() {
  std::vector<const CpuOps*> ops = {&ScalarOps()};
#if defined(__x86_64__)
  if (ChooseCpuIsa("avx2").ok()) ops.push_back(&Avx2Ops());
  if (ChooseCpuIsa("avx512").ok()) ops.push_back(&Avx512Ops());
#endif
#if defined(SHOAL_HAVE_SIMDE)
  if (ChooseCpuIsa("avx2").ok()) ops.push_back(&EmulatedAvx512Ops());
#endif
  return ops;
}

}  // namespace

std::vector<TestedTable> TestedTables() {
  std::vector<TestedTable> tables;
  for (const CpuOps* ops : TestedOps()) {
    for (const int threads : {1, 2}) {
      tables.push_back(
          {std::string(ops->name) + "_threads" + std::to_string(threads), ops,
           [ops, threads] { return MakeCpuKernelTable(*ops, threads); }});
    }
  }
  return tables;
}

}  // namespace shoal
