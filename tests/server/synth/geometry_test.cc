// The published shapes: as many parameters and as many cache bytes a token as
// the models are known to have.
#include "server/synth/geometry.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "engine/loading/hf_config.h"
#include "engine/models/cache_layouts.h"
#include "gtest/gtest.h"
#include "server/synth/hf_model.h"
#include "server/synth/model_plan.h"

namespace shoal {
namespace {

struct Published {
  double billions;                // parameters
  int64_t cache_bytes_per_token;  // bf16
};

const std::map<std::string, Published>& AllPublished() {
  static const std::map<std::string, Published> all = {
      {"smollm2-135m", {0.135, 23'040}}, {"llm-7b", {6.91, 491'520}},
      {"llm-67b", {67.4, 389'120}},      {"r1-llama-8b", {8.03, 131'072}},
      {"r1-llama-70b", {70.6, 327'680}}, {"r1-qwen-1.5b", {1.78, 28'672}},
      {"r1-qwen-7b", {7.62, 57'344}},    {"r1-qwen-14b", {14.8, 196'608}},
      {"r1-qwen-32b", {32.8, 262'144}},  {"r1-qwen3-8b", {8.19, 147'456}},
      {"moe-16b", {16.4, 229'376}},      {"v2-lite", {15.7, 31'104}},
      {"v2", {235.7, 69'120}},           {"v3", {671.0, 70'272}},
      {"v32", {671.9, 70'272 + 15'616}},  // latent rows and indexer keys
      {"v4-flash", {284.3, 6'880}},      {"v4-pro", {1573, 9'848}}};
  return all;
}

TEST(GeometryTest, EveryPublishedOneIsListed) {
  for (const std::string& name : GeometryNames()) {
    EXPECT_EQ(AllPublished().contains(name), !name.starts_with("tiny-"))
        << name;
  }
}

TEST(GeometryTest, ParameterCountsAreThePublishedOnes) {
  for (const auto& [name, published] : AllPublished()) {
    const auto geometry = FindGeometry(name);
    ASSERT_TRUE(geometry.ok()) << geometry.status();
    int64_t count = 0;
    for (const PlannedTensor& tensor :
         PlanTensors(*geometry, WeightFormat::kBF16, 0)) {
      if (tensor.dtype != DType::kI64) count += tensor.num_elements();
    }
    EXPECT_NEAR(static_cast<double>(count) / 1e9, published.billions,
                0.005 * published.billions)
        << name;
  }
}

// What `shoal inspect` prints of the model that `shoal synth` writes.
TEST(GeometryTest, CacheBytesAreThePublishedOnes) {
  std::string folder = testing::TempDir() + "/geometryXXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  for (const auto& [name, published] : AllPublished()) {
    const auto geometry = FindGeometry(name);
    ASSERT_TRUE(geometry.ok()) << geometry.status();
    std::ofstream(folder + "/config.json")
        << HfConfigJson(*geometry, WeightFormat::kBF16);
    const auto config = ReadHfConfig(folder);
    ASSERT_TRUE(config.ok()) << config.status();
    const CacheLayout layout = MakeCacheLayout(*config, DType::kBF16);
    EXPECT_EQ(layout.BytesPerToken(), published.cache_bytes_per_token) << name;
    if (!name.starts_with("v4-")) {
      EXPECT_EQ(layout.BytesPerSequence(), 0) << name;
      continue;
    }
    // A window of 128 rows of 512 values a layer, and what is open in it.
    const CacheGroup& window = layout.groups[kV4Window];
    EXPECT_EQ(window.num_layers * window.rows_per_sequence * window.row_bytes(),
              name == "v4-flash" ? 5'636'096 : 7'995'392);
    EXPECT_LT(layout.BytesPerSequence(), 10'000'000) << name;
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace shoal
