// Counted by hand from the goldens' shapes.
#include "engine/loading/active_weights.h"

#include <string>

#include "gtest/gtest.h"

namespace shoal {
namespace {

ActiveWeights Count(const std::string& name) {
  auto checkpoint = LoadCheckpoint(std::string(SHOAL_GOLDEN_DIR) + "/" + name);
  if (!checkpoint.ok()) {
    ADD_FAILURE() << checkpoint.status();
    return {};
  }
  return CountActiveWeights(**checkpoint);
}

TEST(ActiveWeightsTest, ATiedHeadIsTheEmbedding) {
  const ActiveWeights active = Count("llama-tied-rope-llama3");
  constexpr int64_t kLayer = 2 * 96 + 2 * 96 * 96 + 2 * 48 * 96 + 3 * 192 * 96;
  EXPECT_EQ(active.layer_values, 4 * kLayer);
  EXPECT_EQ(active.head_values, 512 * 96);
  EXPECT_EQ(active.bytes, 2 * active.values());  // BF16
  EXPECT_EQ(active.expert_bytes, 0);
}

TEST(ActiveWeightsTest, OfRoutedExpertsTheChosenOnes) {
  const ActiveWeights active = Count("deepseek_v2-lite");
  constexpr int64_t kAttention =
      48 + 160 * 96 + 64 * 96 + 176 * 48 + 80 * 96 + 2 * 96;
  constexpr int64_t kExpert = 3 * 24 * 96;
  constexpr int64_t kExperts = 16 * 96 + (2 + 4) * kExpert;
  EXPECT_EQ(active.layer_values, 4 * kAttention + 3 * 160 * 96 + 3 * kExperts);
  EXPECT_EQ(active.head_values, 512 * 96);
  EXPECT_EQ(active.bytes, 2 * active.values());
  EXPECT_EQ(active.expert_bytes, 2 * 3 * 4 * kExpert);
}

TEST(ActiveWeightsTest, APredictionModuleIsNone) {
  // Layer 0 is dense, layers 1 to 3 have 16 experts, layer 4 is the module.
  constexpr int64_t kDenseLayer = 70008;
  constexpr int64_t kLayerBesideExperts = 38664;
  constexpr int64_t kAllExperts = 92160;
  EXPECT_EQ(Count("deepseek_v3-noaux-yarn").layer_values,
            kDenseLayer + 3 * (kLayerBesideExperts + kAllExperts * 4 / 16));
}

}  // namespace
}  // namespace shoal
