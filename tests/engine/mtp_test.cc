// Multi-token prediction against the golden model that has a module.
#include <cmath>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/golden_model.h"

namespace shoal {
namespace {

constexpr char kFixture[] = "deepseek_v3-noaux-yarn";

class MtpTest : public testing::TestWithParam<TestTable> {};

TEST_P(MtpTest, LogitsMatch) {
  const Golden golden = LoadGolden(kFixture);
  LoadedModel model = LoadModel(GoldenPath(kFixture), GetParam(),
                                Precision::kExact, DType::kF32, 512);
  auto module = MtpModule::Create(
      *model.checkpoint, {Precision::kExact, DType::kF32, 512}, *model.kernels);
  ASSERT_TRUE(module.ok()) << module.status();
  const ModelConfig& config = model.decoder->config();
  int known = 0;
  for (const GoldenPrompt& prompt : golden.prompts) {
    if (prompt.mtp_logits.empty()) continue;
    ++known;
    std::vector<int32_t> blocks((prompt.input_ids.size() + 15) / 16);
    std::iota(blocks.begin(), blocks.end(), 0);
    std::vector<float> hidden;
    AllLogits(*model.decoder, *model.kernels, prompt.input_ids, 512, 16, blocks,
              &hidden);
    // Row t takes token t + 1, the last row the first greedy one.
    std::vector<int32_t> next(prompt.input_ids.begin() + 1,
                              prompt.input_ids.end());
    next.push_back(prompt.greedy.front());
    for (const int32_t chunk : {512, 7}) {
      const auto logits =
          MtpLogits(**module, config, *model.kernels, next, hidden, chunk);
      // Of the last rows, at most eight.
      const float* last =
          logits.data() + logits.size() - prompt.mtp_logits.size();
      double worst = 0;
      for (size_t i = 0; i < prompt.mtp_logits.size(); ++i) {
        const double difference = std::abs(last[i] - prompt.mtp_logits[i]);
        if (!(difference <= worst)) worst = difference;
      }
      EXPECT_LE(worst, golden.tolerance) << "chunk " << chunk;
    }
  }
  EXPECT_GT(known, 0);
}

TEST(MtpModuleTest, NamesTheTensorThatIsMissing) {
  LoadedModel model =
      LoadModel(GoldenPath("deepseek_v2-lite"), RunnableIsas().front(),
                Precision::kExact, DType::kF32, 16);
  const auto module = MtpModule::Create(
      *model.checkpoint, {Precision::kExact, DType::kF32, 16}, *model.kernels);
  ASSERT_FALSE(module.ok());
  EXPECT_NE(module.status().message().find("enorm.weight"), std::string::npos)
      << module.status();
}

INSTANTIATE_TEST_SUITE_P(All, MtpTest, testing::ValuesIn(AllTables()),
                         [](const testing::TestParamInfo<TestTable>& info) {
                           return info.param.name();
                         });

}  // namespace
}  // namespace shoal
