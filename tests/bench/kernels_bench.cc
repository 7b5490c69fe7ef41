// Speed of a table's ops, beside what its machine can do in the same run.
#include "tests/bench/kernels_bench.h"

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  shoal::RegisterMachine();
  shoal::RegisterLinear();
  shoal::RegisterAttention();
  shoal::RegisterExperts();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
