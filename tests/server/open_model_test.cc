// Models opened with a cache of repacked weights: the same logits whether the
// weights were repacked now or by an earlier start.
#include "server/open_model.h"

#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/synth/synthesize.h"
#include "tests/engine/checked_table.h"
#include "tests/engine/golden_model.h"

namespace shoal {
namespace {

class WeightCacheTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "/open_modelXXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    SynthOptions synth;
    synth.geometry = "tiny-v3";
    synth.format = GetParam();
    synth.path = folder_ + "/model";
    synth.seed = 7;
    const auto report = Synthesize(synth);
    ASSERT_TRUE(report.ok()) << report.status();
    options_.path = synth.path;
    options_.threads = 2;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::vector<float> Logits() const {
    const auto model = OpenModel(options_);
    EXPECT_TRUE(model.ok()) << model.status();
    if (!model.ok()) return {};
    std::vector<int32_t> tokens(40);
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = static_cast<int32_t>(i * 101 % 512);
    }
    return AllLogits(*model->decoder, *model->kernels, tokens, 16, 64, {0});
  }

  std::vector<std::filesystem::path> CacheFiles() const {
    std::vector<std::filesystem::path> files;
    for (const auto& entry :
         std::filesystem::directory_iterator(options_.weight_cache)) {
      files.push_back(entry.path());
    }
    return files;
  }

  std::string folder_;
  ModelOptions options_;
};

TEST_P(WeightCacheTest, LogitsAreThoseWithout) {
  const std::vector<float> expected = Logits();
  options_.weight_cache = folder_ + "/cache/of/weights";  // made
  EXPECT_EQ(Logits(), expected);
  ASSERT_EQ(CacheFiles().size(), 1u);
  const auto written = std::filesystem::last_write_time(CacheFiles()[0]);
  EXPECT_EQ(Logits(), expected);
  ASSERT_EQ(CacheFiles().size(), 1u);
  EXPECT_EQ(std::filesystem::last_write_time(CacheFiles()[0]), written);
}

TEST_P(WeightCacheTest, AChangedModelIsRepacked) {
  options_.weight_cache = folder_ + "/cache";
  const std::vector<float> before = Logits();
  std::filesystem::remove_all(options_.path);
  SynthOptions synth;
  synth.geometry = "tiny-v3";
  synth.format = GetParam();
  synth.path = options_.path;
  synth.seed = 8;
  ASSERT_TRUE(Synthesize(synth).ok());
  const std::vector<float> after = Logits();
  EXPECT_NE(after, before);
  options_.weight_cache.clear();
  EXPECT_EQ(Logits(), after);
}

TEST_P(WeightCacheTest, AFolderThatCannotBeMadeIsAnError) {
  std::ofstream(folder_ + "/file") << "x";
  options_.weight_cache = folder_ + "/file/cache";
  const auto model = OpenModel(options_);
  EXPECT_EQ(model.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(model.status().message().find("weight-cache"), std::string::npos);
}

TEST(OpenModelTest, StepsAreAsLargeAsSuitsTheDevice) {
  ModelOptions options;
  options.path = GoldenPath("deepseek_v2-lite");
  options.device = "cpu";
  options.threads = 2;
  options.max_tokens_per_step = 0;
  const auto on_cpu = OpenModel(options);
  ASSERT_TRUE(on_cpu.ok()) << on_cpu.status();
  EXPECT_EQ(on_cpu->max_tokens_per_step, 512);
  options.make_kernels = [] {
    return std::make_unique<CheckedTable>(
        MakeCpuKernelTable(RunnableIsas().back(), 2));
  };
  const auto on_device = OpenModel(options);
  ASSERT_TRUE(on_device.ok()) << on_device.status();
  EXPECT_EQ(on_device->max_tokens_per_step, 2048);
  options.max_tokens_per_step = 7;
  const auto asked = OpenModel(options);
  ASSERT_TRUE(asked.ok()) << asked.status();
  EXPECT_EQ(asked->max_tokens_per_step, 7);
}

TEST(OpenModelTest, ExpertsHaveTwoTiersOnlyBesideADevice) {
  ModelOptions options;
  options.path = GoldenPath("deepseek_v2-lite");
  options.threads = 2;
  options.expert_memory = 1000;
  const auto on_cpu = OpenModel(options);
  EXPECT_EQ(on_cpu.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(on_cpu.status().message().find("expert-memory"), std::string::npos);
  options.expert_memory = -1;
  options.expert_capacity_factor = 1;
  EXPECT_NE(OpenModel(options).status().message().find("capacity-factor"),
            std::string::npos);
  options.expert_capacity_factor = 0;
  options.expert_memory = 1000;

  options.make_kernels = [] {
    return std::make_unique<CheckedTable>(
        MakeCpuKernelTable(RunnableIsas().back(), 2));
  };
  const auto model = OpenModel(options);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_GT(model->decoder->expert_stats().on_host, 0);
  EXPECT_LE(model->decoder->expert_stats().device_bytes, 1000);
  options.expert_memory = -1;
  const auto whole = OpenModel(options);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->decoder->expert_stats().on_host, 0);
  EXPECT_EQ(whole->decoder->expert_stats().host_bytes, 0);
  options.expert_capacity_factor = 1;
  const auto copied = OpenModel(options);
  ASSERT_TRUE(copied.ok()) << copied.status();
  EXPECT_GT(copied->decoder->expert_stats().host_bytes, 0);
  options.expert_capacity_factor = 0;

  options.expert_placement = "clever";
  EXPECT_EQ(OpenModel(options).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(OpenModelTest, ADeviceFoundByAutoNeedsNoWeightCache) {
  ModelOptions options;
  options.path = GoldenPath("deepseek_v2-lite");
  options.weight_cache = testing::TempDir() + "/cache-of-a-device";
  options.make_kernels = [] {
    return std::make_unique<CheckedTable>(
        MakeCpuKernelTable(RunnableIsas().back(), 2));
  };
  options.device = "auto";
  EXPECT_TRUE(OpenModel(options).ok());
  options.device = "cuda";
  EXPECT_EQ(OpenModel(options).status().code(),
            absl::StatusCode::kUnimplemented);
}

INSTANTIATE_TEST_SUITE_P(All, WeightCacheTest,
                         testing::Values("q4_0", "q4_k", "q8_0", "bf16", "fp8"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace shoal
