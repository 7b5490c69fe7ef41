// Splits the attentions into items for the threads. How an item is cut never
// changes a result: rows are independent, and so are segments of a row's keys
// until they are merged in order.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/thread_pool.h"

namespace shoal::cpu {

class AttentionRunner {
 public:
  explicit AttentionRunner(int num_threads)
      : scratch_(num_threads), orders_(num_threads) {}

  // Threads: one caller at a time; the buffers grow to the largest call.
  void Paged(const CpuOps& ops, ThreadPool& pool,
             const PagedAttentionParams& params);
  void Latent(const CpuOps& ops, ThreadPool& pool,
              const LatentAttentionParams& params);
  void Sparse(const CpuOps& ops, ThreadPool& pool,
              const SparseAttentionParams& params);
  void SelectKeys(const CpuOps& ops, ThreadPool& pool,
                  const KeySelectParams& params);

 private:
  void MakeItems(const PagedAttentionParams& params);
  // Every item once for each of its segments, in parts_.
  void MakeParts(const CpuOps& ops, const PagedAttentionParams& params);
  float* Scratch(int thread, int64_t floats);
  // The chosen keys of token `t` as slots.
  void WriteChoice(const KeySelectParams& params, int32_t t,
                   const std::vector<int32_t>& order);

  struct Part {
    AttentionItem item;
    int64_t states = 0;  // place in states_
  };

  std::vector<std::vector<float>> scratch_;   // one a thread
  std::vector<std::vector<int32_t>> orders_;  // one a thread
  std::vector<AttentionItem> items_;
  std::vector<Part> parts_;
  std::vector<int64_t> first_states_;  // of each item
  std::vector<float> states_;
  std::vector<float> scores_;
};

}  // namespace shoal::cpu
