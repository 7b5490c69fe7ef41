// How the CPU rounds activations to 8 bits.
#include <gmock/gmock.h>

#include <algorithm>

#include "tests/kernels/op_test_support.h"

namespace shoal {
namespace {

class RoundRowsTest : public OpTest {};

TEST_P(RoundRowsTest, RoundsActivationsToNearest) {
  Random random(7);
  const int64_t width = 96, tokens = 50;
  std::vector<float> in = random.Normals(tokens * width);
  std::fill(in.begin(), in.begin() + kGroup, 0.0f);
  std::fill(in.begin() + kGroup, in.begin() + 2 * kGroup, 0.0f);
  in[40] = 1e-42f;  // too small to divide by
  const std::vector<RoundedGroup> groups =
      RoundedByToken(*GetParam().cpu_ops, in, width);
  for (size_t g = 0; g < groups.size(); ++g) {
    const RoundedGroup& group = groups[g];
    float max = 0;
    int sums[2] = {};
    for (int k = 0; k < kGroup; ++k) {
      const float x = in[g * kGroup + k];
      max = std::max(max, std::fabs(x));
      sums[k / (kGroup / 2)] += group.values[k];
      ASSERT_LE(std::abs(x - group.scale * group.values[k]),
                0.5001 * group.scale + 2e-42)
          << g << " " << k;
      ASSERT_GE(group.values[k], -127);
    }
    EXPECT_FLOAT_EQ(group.scale, max < 1e-40 ? 0 : max / 127);
    EXPECT_FLOAT_EQ(group.sum, group.scale * (sums[0] + sums[1]));
    EXPECT_EQ(group.half_offsets[0], -128 * sums[0]);
    EXPECT_EQ(group.half_offsets[1], -128 * sums[1]);
    EXPECT_EQ(group.offset_8, -8 * (sums[0] + sums[1]));
    EXPECT_EQ(group.offset_128, -128 * (sums[0] + sums[1]));
  }
}

INSTANTIATE_OP_TEST(RoundRowsTest);

}  // namespace
}  // namespace shoal
