// Products and attention by warpgroups beside those of the other kernels: the
// same bits.
#include "gtest/gtest.h"
#include "kernels/cuda/warpgroup_probe.h"

namespace shoal::cuda {
namespace {

TEST(WarpgroupTest, GivesTheBitsOfTheOtherKernels) {
  LaunchContext context;
  const WarpgroupUse use = ProbeWarpgroups(context);
  EXPECT_EQ(context.error(), cudaSuccess) << context.ErrorText();
  EXPECT_TRUE(use.products);
  EXPECT_TRUE(use.attention);
  EXPECT_EQ(context.warpgroups(), WarpgroupUse());
}

}  // namespace
}  // namespace shoal::cuda
