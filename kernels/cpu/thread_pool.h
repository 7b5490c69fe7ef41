// ThreadPool runs one loop at a time over all its threads: the caller is one of
// them, so a pool of one has no threads at all. Each thread has an even share
// of neighbouring items, the same one whenever the loop is the same, which it
// takes chunk by chunk; when it is through it helps with the others' shares, so
// that a thread that the system held up does less. Shares and not one common
// counter, because neighbours in memory are read twice as fast as chunks that
// two cores take in turn.
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
  // REQUIRES: num_items < 2^32.
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
  // The first item of a share; that of num_threads is the end.
  int64_t ShareBegin(int share) const {
    return num_items_ * share / num_threads_;
  }
  // Takes a chunk of a share; false when it has none left.
  bool Take(int share, int64_t* begin, int64_t* end);
  void WorkerLoop(int thread);

  const int num_threads_;
  // The loop under way. Written while state_ is closed and nobody inside.
  Function function_ = nullptr;
  const void* context_ = nullptr;
  int64_t num_items_ = 0;
  int64_t chunk_ = 1;
  uint32_t loop_ = 0;  // epoch_ of the loop
  // Of each share: the loop's epoch in the upper half, the next item in the
  // lower. What is left of another loop reads as a share not yet begun, so that
  // starting a loop writes none of them.
  struct alignas(64) Share {
    std::atomic<uint64_t> next = 0;
  };
  std::vector<Share> shares_;
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
