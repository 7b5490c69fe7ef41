// Runs the chosen experts: the tokens of each expert are gathered, rounded once
// each however many experts they chose, so that an expert's weights are read
// once however many tokens chose it; all experts share one loop over the
// threads.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/linear_jobs.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/moe.h"

namespace shoal::cpu {

class ExpertRunner {
 public:
  explicit ExpertRunner(int num_threads) : linear_(num_threads) {}

  // Threads: one caller at a time; the buffers grow to the largest batch seen.
  void Run(const CpuOps& ops, ThreadPool& pool, const MoeExpertsParams& params);

 private:
  void Sort(const MoeExpertsParams& params);
  void Gather(ThreadPool& pool, const MoeExpertsParams& params);
  void Add(ThreadPool& pool, const MoeExpertsParams& params) const;

  LinearRunner linear_;
  RowRounder rounder_;
  std::vector<LinearJob> jobs_;
  // Tokens of choices by expert, in order; those of expert e are rows
  // [first_rows_[e], first_rows_[e + 1]) of all that follow.
  std::vector<int64_t> source_rows_;
  std::vector<int64_t> first_rows_;
  std::vector<int64_t> row_of_choice_;  // t · top_k + k; -1: skipped
  std::vector<float> rows_;             // [rows, hidden_size], if needed
  std::vector<float> gate_;             // [rows, intermediate_size]
  std::vector<float> up_;               // like gate_
  std::vector<float> result_;           // [rows, hidden_size]
};

}  // namespace shoal::cpu
