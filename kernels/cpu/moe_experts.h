// Runs the chosen experts over the CPU table's own products: the tokens of each
// expert are gathered, so that its weights are read once however many tokens
// chose it.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernel_table.h"
#include "kernels/moe.h"

namespace shoal::cpu {

class ExpertRunner {
 public:
  // `table` does the products and the activation. Threads: one caller at a
  // time; the buffers grow to the largest batch seen.
  void Run(const MoeExpertsParams& params, KernelTable& table);

 private:
  std::vector<std::vector<int32_t>> slots_;  // of each expert: t · top_k + k
  std::vector<float> rows_;    // [tokens of an expert, hidden_size]
  std::vector<float> gate_;    // [.., intermediate_size]
  std::vector<float> up_;      // like gate_
  std::vector<float> result_;  // [.., hidden_size]
};

}  // namespace shoal::cpu
