// The default model against its reference: greedy tokens and top-5 logits. The
// file is read from ${SHOAL_CACHE:-$HOME/.cache/shoal}/models.
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <string>
#include <tuple>

#include "engine/sampling/sampler.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/golden_model.h"

namespace shoal {
namespace {

std::string ModelPath() {
  const char* cache = std::getenv("SHOAL_CACHE");
  const std::string root =
      cache != nullptr ? cache
                       : std::string(std::getenv("HOME")) + "/.cache/shoal";
  return root + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

class RealModelTest
    : public testing::TestWithParam<std::tuple<CpuIsa, Precision>> {};

TEST_P(RealModelTest, LogitsAlongTheReferencesOwnTokens) {
  const auto& [isa, precision] = GetParam();
  const bool exact = precision == Precision::kExact;
  LoadedModel model =
      LoadModel(ModelPath(), isa, precision, exact ? DType::kF32 : DType::kBF16,
                /*max_tokens_per_step=*/512);
  const int64_t vocab_size = model.decoder->config().vocab_size;
  // Rounding activations to 8 bits moves single logits by some tenths.
  const double sure = exact ? 0.005 : 1.0;
  const double near = exact ? 0.005 : 1.0;
  const nlohmann::json json = nlohmann::json::parse(
      std::ifstream(GoldenPath("real/smollm2-135m-instruct-q4_1.json")));
  for (const auto& prompt : json.at("prompts")) {
    auto tokens = prompt.at("ids").get<std::vector<int32_t>>();
    const auto greedy = prompt.at("greedy").get<std::vector<int32_t>>();
    const auto margins = prompt.at("margins").get<std::vector<double>>();
    const size_t first = tokens.size() - 1;
    tokens.insert(tokens.end(), greedy.begin(), greedy.end() - 1);
    std::vector<int32_t> blocks((tokens.size() + 15) / 16);
    std::iota(blocks.begin(), blocks.end(), 0);
    std::vector<float> logits =
        AllLogits(*model.decoder, *model.kernels, tokens, 512, 16, blocks);
    const auto row = [&](size_t step) {
      return std::span<const float>(logits.data() + (first + step) * vocab_size,
                                    vocab_size);
    };
    for (size_t step = 0; step < greedy.size(); ++step) {
      if (margins[step] < sure) continue;
      EXPECT_EQ(ArgMax(row(step)), greedy[step])
          << prompt.at("name") << " step " << step;
    }
    for (const auto& top : prompt.at("top5")) {
      for (int i = 0; i < 5; ++i) {
        EXPECT_NEAR(row(top.at("step"))[top.at("ids")[i]],
                    top.at("logits")[i].get<double>(), near)
            << prompt.at("name") << " step " << top.at("step");
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Smollm2, RealModelTest,
    testing::Combine(testing::ValuesIn(RunnableIsas()),
                     testing::Values(Precision::kExact, Precision::kFast)),
    [](const testing::TestParamInfo<RealModelTest::ParamType>& info) {
      return std::string(CpuIsaName(std::get<0>(info.param))) +
             (std::get<1>(info.param) == Precision::kExact ? "_exact"
                                                           : "_fast");
    });

}  // namespace
}  // namespace shoal
