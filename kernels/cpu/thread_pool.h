// ThreadPool runs one loop at a time over all its threads: the caller is one of
// them, so a pool of one has no threads at all. Items are dealt out in chunks
// from a shared counter, so that a thread that the system held up does less.
//
// A decode step has a few hundred loops of some ten microseconds, so waiting
// threads spin for a while before they sleep: a wake-up through the kernel
// would cost more than the loop. Threads: one caller at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace shoal {

class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);  // REQUIRES: num_threads >= 1
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls body(begin, end, thread) over parts of [0, num_items) until all are
  // done; thread is in [0, num_threads). Parts hold at most `chunk` items. A
  // loop of one chunk runs in the caller without touching other threads.
  template <typename Body>
  void For(int64_t num_items, int64_t chunk, const Body& body) {
    if (num_items <= 0) return;
    if (num_threads_ == 1 || num_items <= chunk) {
      body(0, num_items, 0);
      return;
    }
    Run(
        [](const void* context, int64_t begin, int64_t end, int thread) {
          (*static_cast<const Body*>(context))(begin, end, thread);
        },
        &body, num_items, chunk);
  }

 private:
  using Function = void (*)(const void* context, int64_t begin, int64_t end,
                            int thread);

  void Run(Function function, const void* context, int64_t num_items,
           int64_t chunk);
  // Enters the loop under way; false if it is over.
  bool Join();
  void Work(int thread);
  void WorkerLoop(int thread);

  const int num_threads_;
  // The loop under way. Written while state_ is closed and nobody inside.
  Function function_ = nullptr;
  const void* context_ = nullptr;
  int64_t num_items_ = 0;
  int64_t chunk_ = 1;
  alignas(64) std::atomic<int64_t> next_item_ = 0;
  alignas(64) std::atomic<uint32_t> epoch_ = 0;  // one more for each loop
  // Threads inside the loop besides the caller, and kClosed once its chunks are
  // all taken: a thread that comes late is not waited for.
  static constexpr uint32_t kClosed = 1u << 31;
  alignas(64) std::atomic<uint32_t> state_ = kClosed;
  std::atomic<int32_t> num_sleeping_ = 0;
  std::atomic<bool> stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace shoal
