#include "kernels/cuda/device_arena.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

namespace shoal::cuda {
namespace {

constexpr int64_t kChunkBytes = 64 << 10;

// Counts what is out, of host memory.
class CountedSource : public ChunkSource {
 public:
  CountedSource(int* num_out, int most) : num_out_(*num_out), most_(most) {}
  void* Take(int64_t bytes) override {
    if (num_out_ == most_) return nullptr;
    ++num_out_;
    return std::aligned_alloc(256, bytes);
  }
  void Give(void* chunk) override {
    --num_out_;
    std::free(chunk);
  }

 private:
  int& num_out_;
  const int most_;
};

TEST(DeviceArenaTest, SmallPiecesShareAChunkThatStays) {
  int chunks = 0;
  DeviceArena arena(std::make_unique<CountedSource>(&chunks, 1), kChunkBytes);
  void* a = arena.Allocate(100);
  void* b = arena.Allocate(kChunkBytes / 4);
  ASSERT_NE(a, nullptr);
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(chunks, 1);
  EXPECT_TRUE(arena.Contains(b, kChunkBytes / 4));
  EXPECT_FALSE(arena.Contains(a, kChunkBytes / 2));
  arena.Free(a);
  arena.Free(b);
  EXPECT_EQ(chunks, 1);
  EXPECT_EQ(arena.free_bytes(), kChunkBytes);
  EXPECT_EQ(arena.Allocate(100), a);
}

TEST(DeviceArenaTest, LargePiecesGoBackWhateverTheirSize) {
  int chunks = 0;
  DeviceArena arena(std::make_unique<CountedSource>(&chunks, 1), kChunkBytes);
  for (const int64_t bytes :
       {kChunkBytes / 2, kChunkBytes, kChunkBytes + 1, kChunkBytes}) {
    void* piece = arena.Allocate(bytes);
    ASSERT_NE(piece, nullptr) << bytes;
    EXPECT_EQ(arena.Allocate(bytes), nullptr);
    arena.Free(piece);
    EXPECT_EQ(chunks, 0) << bytes;
    EXPECT_EQ(arena.free_bytes(), 0) << bytes;
  }
}

}  // namespace
}  // namespace shoal::cuda
