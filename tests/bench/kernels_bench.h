// What the files of the kernel benches share. One set of benches measures any
// kernel table: the binary brings it, with the ceilings of its machine.
//
//   linear/TYPE/OUTxIN/TOKENS   bytes/s of packed weights, items/s of
//                               multiply-adds times two
//   attention/SEQUENCESxCONTEXT/NEW and other attentions
//                               bytes/s of cached rows, items/s likewise; see
//                               attention_bench.cc
//   experts/TOKENS/DISTINCT     bytes/s of the experts chosen; moe_bench.cc
//   machine/...                 the ceilings; see the binary's own file
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/kernel_table.h"

namespace shoal {

// Of the binary: its table, and its ceilings as benches.
KernelTable& BenchTable();
void RegisterMachine();

inline bool OnHost() { return BenchTable().memory_is_host(); }

// Values where the table's ops can read and write them.
template <typename T>
class BenchArray {
 public:
  explicit BenchArray(const std::vector<T>& values)
      : buffer_(BenchTable()
                    .Allocate(static_cast<int64_t>(values.size() * sizeof(T)))
                    .value()) {
    Set(values);
  }
  explicit BenchArray(int64_t n) : BenchArray(std::vector<T>(n)) {}

  void Set(const std::vector<T>& values) {
    BenchTable().Upload(values.data(),
                        static_cast<int64_t>(values.size() * sizeof(T)),
                        buffer_->data());
  }
  T* data() const { return static_cast<T*>(buffer_->data()); }

 private:
  std::unique_ptr<DeviceBuffer> buffer_;
};

// Ops between two waits for the table: where ops are queued, so many that the
// wait costs little.
inline int OpsPerIteration() { return OnHost() ? 1 : 32; }

// What each of `ops` operations an iteration has read and computed.
inline void CountOps(benchmark::State& state, int ops, int64_t bytes,
                     int64_t items) {
  state.SetBytesProcessed(state.iterations() * ops * bytes);
  state.SetItemsProcessed(state.iterations() * ops * items);
  state.counters["us"] = benchmark::Counter(
      static_cast<double>(state.iterations() * ops) * 1e-6,
      benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

// Runs op() and counts what one of them reads and computes.
template <typename Op>
void MeasureOps(benchmark::State& state, int64_t bytes, int64_t items,
                const Op& op) {
  const int ops = OpsPerIteration();
  for (auto _ : state) {
    for (int i = 0; i < ops; ++i) op();
    if (!OnHost() && !BenchTable().Synchronize().ok()) {
      state.SkipWithError("the device has failed");
      break;
    }
  }
  CountOps(state, ops, bytes, items);
}

inline void RegisterBench(const std::string& name, auto function) {
  benchmark::RegisterBenchmark(name.c_str(), function)
      ->MinTime(OnHost() ? 0.1 : 0.02)
      ->UseRealTime();
}

// linear_bench.cc: matrix products.
void RegisterLinear();
// attention_bench.cc: all attentions.
void RegisterAttention();
// moe_bench.cc: a layer of experts.
void RegisterExperts();

}  // namespace shoal
