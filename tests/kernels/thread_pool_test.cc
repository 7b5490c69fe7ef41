#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <set>
#include <vector>

namespace shoal {
namespace {

TEST(ThreadPoolTest, EveryItemOnce) {
  for (int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (int64_t items : {0, 1, 2, 7, 100}) {
      for (int64_t chunk : {1, 3, 100}) {
        std::vector<std::atomic<int>> seen(items);
        pool.For(items, chunk, [&](int64_t begin, int64_t end, int thread) {
          EXPECT_GE(thread, 0);
          EXPECT_LT(thread, threads);
          EXPECT_LT(begin, end);
          for (int64_t i = begin; i < end; ++i) ++seen[i];
        });
        for (const std::atomic<int>& count : seen) EXPECT_EQ(count, 1);
      }
    }
  }
}

TEST(ThreadPoolTest, TheLastChunksOfAShareAreSmaller) {
  ThreadPool pool(2);
  std::vector<std::atomic<int64_t>> ends(100);  // by what begins there
  pool.For(100, 16,
           [&](int64_t begin, int64_t end, int) { ends[begin] = end; });
  for (const int64_t share : {0, 50}) {
    int64_t begin = share;
    for (const int64_t size : {16, 16, 9, 8, 1}) {
      EXPECT_EQ(ends[begin], begin + size);
      begin += size;
    }
    EXPECT_EQ(begin, share + 50);
  }
}

TEST(ThreadPoolTest, ManyShortLoops) {
  ThreadPool pool(3);
  std::vector<int64_t> sums(64);
  for (int round = 0; round < 3000; ++round) {
    pool.For(64, 5, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) sums[i] += i;
    });
  }
  for (int64_t i = 0; i < 64; ++i) EXPECT_EQ(sums[i], 3000 * i);
}

TEST(ThreadPoolTest, WakesSleepers) {
  ThreadPool pool(2);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    // Both threads must take part: each item waits for the other.
    std::atomic<int> started = 0;
    pool.For(2, 1, [&](int64_t, int64_t, int) {
      ++started;
      while (started < 2) std::this_thread::yield();
    });
    EXPECT_EQ(started, 2);
  }
}

TEST(ThreadPoolTest, LoopOfOneChunkStaysInCaller) {
  ThreadPool pool(2);
  const std::thread::id caller = std::this_thread::get_id();
  pool.For(10, 10, [&](int64_t begin, int64_t end, int thread) {
    EXPECT_EQ(begin, 0);
    EXPECT_EQ(end, 10);
    EXPECT_EQ(thread, 0);
    EXPECT_EQ(std::this_thread::get_id(), caller);
  });
}

TEST(ThreadPoolTest, StopsWithoutHavingRun) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(4);
}

}  // namespace
}  // namespace shoal
