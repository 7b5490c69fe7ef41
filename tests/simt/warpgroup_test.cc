// Products by warpgroups beside those of the other kernels: the same bits, in
// tiles of either size.
#include "gtest/gtest.h"
#include "kernels/cuda/warpgroup_probe.h"

namespace shoal::cuda {
namespace {

TEST(WarpgroupTest, GivesTheBitsOfTheOtherKernels) {
  LaunchContext context;
  EXPECT_TRUE(WarpgroupsAgree(context)) << context.ErrorText();
  EXPECT_FALSE(context.has_warpgroups());
  EXPECT_EQ(context.error(), cudaSuccess);
}

}  // namespace
}  // namespace shoal::cuda
