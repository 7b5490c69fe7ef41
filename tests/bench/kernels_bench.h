// What the files of kernels_bench share.
#pragma once

#include <benchmark/benchmark.h>

#include <string>

#include "kernels/kernel_table.h"

namespace shoal {

// The table that the environment chose; see kernels_bench.cc.
KernelTable& BenchTable();

inline void RegisterBench(const std::string& name, auto function) {
  benchmark::RegisterBenchmark(name.c_str(), function)
      ->MinTime(0.1)
      ->UseRealTime();
}

// attention_bench.cc: all attentions, and the ceilings of float products.
void RegisterAttention();
// moe_bench.cc: a layer of experts.
void RegisterExperts();

}  // namespace shoal
