#include "engine/cache/paged_cache.h"

#include <cstring>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_table.h"

namespace shoal {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class PagedCacheTest : public testing::Test {
 protected:
  const CacheLayout layout_ = {
      {{"k", 3, 8, DType::kF32}, {"latent", 2, 6, DType::kF16}}};
  const std::unique_ptr<KernelTable> kernels_ =
      MakeCpuKernelTable(CpuIsa::kScalar, 1);
};

TEST_F(PagedCacheTest, EachLayerHasItsOwnZeroedBlocks) {
  const auto cache = PagedCache::Create(layout_, 5, 4, 1, *kernels_);
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ((*cache)->bytes(), 5 * 4 * layout_.BytesPerToken());
  EXPECT_EQ((*cache)->bytes(), 5 * 4 * (3 * 8 * 4 + 2 * 6 * 2));
  std::set<const void*> places;
  for (int group = 0; group < 2; ++group) {
    const CacheGroup& g = layout_.groups[group];
    for (int layer = 0; layer < g.num_layers; ++layer) {
      const TensorView tensor = (*cache)->tensor(group, layer);
      EXPECT_EQ(tensor.dtype, g.dtype);
      EXPECT_EQ(tensor.rank, 3);
      EXPECT_THAT(tensor.shape, ElementsAre(5, 4, g.row_width, 0));
      const int64_t bytes = tensor.bytes();
      const std::string zeros(bytes, '\0');
      EXPECT_EQ(std::memcmp(tensor.data, zeros.data(), bytes), 0);
      // Written whole: a later layer that overlapped would not be zero.
      std::memset(tensor.data, 0xff, bytes);
      places.insert(tensor.data);
    }
  }
  EXPECT_EQ(places.size(), 5);
}

TEST_F(PagedCacheTest, MoreThanTheMachineHasNamesTheBytes) {
  const CacheLayout wide = {{{"k", 1, int64_t{1} << 30, DType::kF32}}};
  const auto cache = PagedCache::Create(wide, 1 << 20, 16, 1, *kernels_);
  EXPECT_EQ(cache.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(cache.status().message()),
              HasSubstr(std::to_string(int64_t{1} << 56)));
}

}  // namespace
}  // namespace shoal
