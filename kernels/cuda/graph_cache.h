// GraphCache replays what was queued before as one CUDA graph, so that the many
// small launches of a decode step cost the host one. Threads: one caller at a
// time.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/cuda/launch.h"

namespace shoal::cuda {

class GraphCache {
 public:
  explicit GraphCache(LaunchContext& context) : context_(context) {}
  ~GraphCache();
  GraphCache(const GraphCache&) = delete;
  GraphCache& operator=(const GraphCache&) = delete;

  // Calls `queue` or replays what a call of it with `key` queued; see
  // KernelTable::Replay(). The first call of a key is queued as it is, which
  // brings all memory up to size, the second one is recorded.
  absl::Status Run(std::span<const int64_t> key,
                   absl::FunctionRef<absl::Status()> queue);

 private:
  struct Entry {
    cudaGraphExec_t graph = nullptr;
    uint64_t generation = 0;  // of the context's memory
    uint64_t last_used = 0;
  };

  absl::Status Record(Entry& entry, absl::FunctionRef<absl::Status()> queue);
  void DropOldest();

  LaunchContext& context_;
  std::map<std::vector<int64_t>, Entry> entries_;
  uint64_t clock_ = 0;
};

}  // namespace shoal::cuda
