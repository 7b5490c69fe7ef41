#include "kernels/cuda/graph_cache.h"

#include <algorithm>

namespace shoal::cuda {
namespace {

// Batch sizes come and go; a graph of a large model is some megabytes.
constexpr size_t kMostEntries = 64;

}  // namespace

GraphCache::~GraphCache() {
  cudaStreamSynchronize(context_.stream());
  for (auto& [key, entry] : entries_) {
    if (entry.graph != nullptr) cudaGraphExecDestroy(entry.graph);
  }
}

absl::Status GraphCache::Run(std::span<const int64_t> key,
                             absl::FunctionRef<absl::Status()> queue) {
  if (context_.error() != cudaSuccess) return queue();
  const auto [it, is_new] =
      entries_.try_emplace(std::vector<int64_t>(key.begin(), key.end()));
  Entry& entry = it->second;
  entry.last_used = ++clock_;
  if (is_new || entry.generation != context_.generation()) {
    // What was recorded may point at memory that is gone.
    if (entry.graph != nullptr) cudaGraphExecDestroy(entry.graph);
    entry.graph = nullptr;
    absl::Status status = queue();
    entry.generation = context_.generation();
    DropOldest();
    return status;
  }
  if (entry.graph == nullptr) {
    absl::Status status = Record(entry, queue);
    if (!status.ok()) return status;
  }
  if (entry.graph != nullptr) {
    context_.Begin("Replay");
    context_.Check(cudaGraphLaunch(entry.graph, context_.stream()));
  }
  return absl::OkStatus();
}

absl::Status GraphCache::Record(Entry& entry,
                                absl::FunctionRef<absl::Status()> queue) {
  context_.Begin("Record");
  if (!context_.Check(cudaStreamBeginCapture(
          context_.stream(), cudaStreamCaptureModeThreadLocal))) {
    return absl::OkStatus();  // the caller's Synchronize() tells
  }
  absl::Status status = queue();
  cudaGraph_t graph = nullptr;
  context_.Begin("Record");
  if (context_.Check(cudaStreamEndCapture(context_.stream(), &graph))) {
    context_.Check(cudaGraphInstantiate(&entry.graph, graph, 0));
    cudaGraphDestroy(graph);
  }
  return status;
}

void GraphCache::DropOldest() {
  if (entries_.size() <= kMostEntries) return;
  const auto oldest = std::min_element(
      entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
        return a.second.last_used < b.second.last_used;
      });
  // A graph that still runs is freed when it is done.
  if (oldest->second.graph != nullptr) {
    cudaGraphExecDestroy(oldest->second.graph);
  }
  entries_.erase(oldest);
}

}  // namespace shoal::cuda
