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

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads) {
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
  function_ = function;
  context_ = context;
  num_items_ = num_items;
  chunk_ = chunk;
  next_item_.store(0, std::memory_order_relaxed);
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

void ThreadPool::Work(int thread) {
  while (true) {
    const int64_t begin =
        next_item_.fetch_add(chunk_, std::memory_order_relaxed);
    if (begin >= num_items_) return;
    function_(context_, begin, std::min(begin + chunk_, num_items_), thread);
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
