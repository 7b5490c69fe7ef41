// Dense products on the CPU: rounding of input rows, and any number of products
// in one loop over the threads. Linear() is a few jobs with one input; a layer
// of experts is hundreds with their own.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/packed_weights.h"
#include "kernels/cpu/thread_pool.h"

namespace shoal::cpu {

// Elements below which work stays in the calling thread: waking the others
// costs about as much as this many elements take.
inline constexpr int64_t kSmallWork = 8192;

// Calls body(begin, end) over ranges of `rows` rows of `width` elements each.
void ForRows(ThreadPool& pool, int64_t rows, int64_t width,
             const std::function<void(int64_t, int64_t)>& body);

// Rows rounded to 8 bits, in memory that grows to the largest call.
class RowRounder {
 public:
  // Part p is rows [first_rows[p], first_rows[p + 1]) of in [.., in_features],
  // in panels of its own. Valid until the next call.
  std::span<const RoundedRows> Round(const CpuOps& ops, ThreadPool& pool,
                                     const float* in, int64_t in_features,
                                     std::span<const int64_t> first_rows);
  // The same of rows that are chosen from in [num_rows, in_features]: row i is
  // sources[i]. One that is chosen several times is rounded once.
  std::span<const RoundedRows> RoundChosen(const CpuOps& ops, ThreadPool& pool,
                                           const float* in, int64_t num_rows,
                                           int64_t in_features,
                                           std::span<const int64_t> sources,
                                           std::span<const int64_t> first_rows);

 private:
  // Makes room for the parts, and their panels' places.
  void MakeParts(const CpuOps& ops, int64_t in_features,
                 std::span<const int64_t> first_rows);
  // Calls body(p, first, last) over columns (see CpuOps::round_rows) of parts.
  void ForColumns(const CpuOps& ops, ThreadPool& pool,
                  const std::function<void(size_t, int64_t, int64_t)>& body);
  void CopyColumns(const CpuOps& ops, const RoundedRows& part,
                   const int64_t* sources, int64_t begin, int64_t end);

  std::vector<RoundedGroup> groups_;
  std::vector<RoundedRows> parts_;
  std::vector<int64_t> first_columns_;  // of each part, then their number
  std::vector<RoundedGroup> rows_;      // [num_rows, in_features / kGroup]
  std::vector<uint8_t> is_chosen_;      // [num_rows]
};

// One product. `rounded` is read for tiles, `in` for all other forms; those
// that want it in pairs of bf16 have the runner round it.
struct LinearJob {
  const CpuMatrix* matrix = nullptr;
  const float* in = nullptr;  // [num_tokens, in_features]
  RoundedRows rounded;
  int64_t num_tokens = 0;
  LinearOut out;
};

class LinearRunner {
 public:
  explicit LinearRunner(int num_threads) : rows_(num_threads) {}

  // All jobs; their outputs must not overlap. Work is handed out in pieces of
  // a job's rows.
  void Run(const CpuOps& ops, ThreadPool& pool,
           std::span<const LinearJob> jobs);

 private:
  // An input that jobs with pairs share.
  struct PairInput {
    const float* in = nullptr;
    int64_t in_features = 0;
    int64_t offset = 0;  // in words_
  };

  void RoundPairs(const CpuOps& ops, ThreadPool& pool,
                  std::span<const LinearJob> jobs);
  void RunUnits(const CpuOps& ops, const LinearJob& job, const float* words,
                int64_t begin, int64_t end, std::vector<float>* row);

  std::vector<int64_t> first_units_;      // of each job, then their number
  std::vector<std::vector<float>> rows_;  // widened rows, one a thread
  std::vector<PairInput> inputs_;
  std::vector<int64_t> first_rows_;  // of each input, then their number
  std::vector<int64_t> offsets_;     // of each job's input in words_
  std::vector<float> words_;         // inputs in pairs
};

}  // namespace shoal::cpu
