#include "kernels/cpu/thread_pool.h"

#include <algorithm>

#include "kernels/check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace shoal {
namespace {

// About 50 microseconds of pauses: longer than the gap between two loops of a
// step, far shorter than the time an idle server would burn noticeably.
constexpr int kSpins = 2000;

inline void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads)
    : num_threads_(num_threads), shares_(num_threads) {
  SHOAL_CHECK(num_threads >= 1);
  threads_.reserve(num_threads - 1);
  for (int i = 1; i < num_threads; ++i) {
    threads_.emplace_back([this, i] { WorkerLoop(i); });
  }
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::Run(Function function, const void* context, int64_t num_items,
                     int64_t chunk) {
  SHOAL_CHECK(num_items >> 32 == 0);
  function_ = function;
  context_ = context;
  num_items_ = num_items;
  chunk_ = chunk;
  loop_ = epoch_.load(std::memory_order_relaxed) + 1;
  state_.store(0, std::memory_order_release);
  epoch_.fetch_add(1);  // seq_cst: ordered against num_sleeping_
  if (num_sleeping_.load() > 0) epoch_.notify_all();
  Work(0);
  // Chunks are all taken; those who took some are finishing them. One of them
  // may have lost its core on a loaded machine, so give ours up after a while.
  state_.fetch_or(kClosed, std::memory_order_acquire);
  for (int spins = 0; state_.load(std::memory_order_acquire) != kClosed;) {
    if (++spins < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

bool ThreadPool::Join() {
  uint32_t state = state_.load(std::memory_order_relaxed);
  while ((state & kClosed) == 0) {
    if (state_.compare_exchange_weak(state, state + 1,
                                     std::memory_order_acquire,
                                     std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

bool ThreadPool::Take(int share, int64_t* begin, int64_t* end) {
  const int64_t last = ShareBegin(share + 1);
  std::atomic<uint64_t>& next = shares_[share].next;
  uint64_t seen = next.load(std::memory_order_relaxed);
  while (true) {
    const bool begun = seen >> 32 == loop_;
    *begin =
        begun ? static_cast<int64_t>(seen & 0xffffffffu) : ShareBegin(share);
    if (*begin >= last) return false;
    // What is left of a share when it is less than two chunks is halved, so
    // that threads end together.
    const int64_t left = last - *begin;
    *end =
        *begin + std::min({chunk_, left, std::max(left / 2, (chunk_ + 1) / 2)});
    const uint64_t taken = uint64_t{loop_} << 32 | static_cast<uint64_t>(*end);
    if (next.compare_exchange_weak(seen, taken, std::memory_order_relaxed)) {
      return true;
    }
  }
}

void ThreadPool::Work(int thread) {
  int64_t begin, end;
  for (int i = 0; i < num_threads_; ++i) {
    const int share = (thread + i) % num_threads_;
    while (Take(share, &begin, &end)) function_(context_, begin, end, thread);
  }
}

void ThreadPool::WorkerLoop(int thread) {
  uint32_t seen = 0;
  while (true) {
    for (int spins = 0; epoch_.load(std::memory_order_acquire) == seen;) {
      if (++spins < kSpins) {
        Pause();
        continue;
      }
      num_sleeping_.fetch_add(1);
      epoch_.wait(seen);
      num_sleeping_.fetch_sub(1);
    }
    seen = epoch_.load(std::memory_order_acquire);
    if (stopping_.load()) return;
    if (!Join()) continue;
    Work(thread);
    state_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace shoal
