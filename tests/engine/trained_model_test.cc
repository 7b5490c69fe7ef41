// A small trained model of DeepSeek-V3's architecture against its oracle
// (tests/golden/real/psalm-moe): perplexity, expert loads, tokens, drafts.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <numeric>
#include <string>
#include <vector>

#include "engine/sampling/sampler.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/text/model_text.h"
#include "tests/engine/golden_model.h"

namespace shoal {
namespace {

constexpr int32_t kWindow = 256;  // tokens

class TrainedModelTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = GoldenPath("real/psalm-moe");
    oracle_ = nlohmann::json::parse(std::ifstream(folder_ + "/oracle.json"));
    model_ = LoadModel(folder_, RunnableIsas().back(), Precision::kExact,
                       DType::kF32, kMaxTokens);
    auto module = MtpModule::Create(
        *model_.checkpoint, {Precision::kExact, DType::kF32, kMaxTokens},
        *model_.kernels);
    ASSERT_TRUE(module.ok()) << module.status();
    module_ = *std::move(module);
  }

  const ModelConfig& config() const { return model_.decoder->config(); }

  std::vector<float> Logits(const std::vector<int32_t>& tokens,
                            std::vector<float>* hidden) {
    std::vector<int32_t> blocks((tokens.size() + 15) / 16);
    std::iota(blocks.begin(), blocks.end(), 0);
    return AllLogits(*model_.decoder, *model_.kernels, tokens, kMaxTokens, 16,
                     blocks, hidden);
  }

  // Of all rows but the last, which has no next token.
  std::vector<float> DraftLogits(const std::vector<int32_t>& tokens,
                                 std::vector<float> hidden) {
    hidden.resize((tokens.size() - 1) * config().hidden_size);
    return MtpLogits(*module_, config(), *model_.kernels,
                     {tokens.begin() + 1, tokens.end()}, hidden, kMaxTokens);
  }

  std::span<const float> Row(const std::vector<float>& logits,
                             int64_t row) const {
    return {logits.data() + row * config().vocab_size,
            static_cast<size_t>(config().vocab_size)};
  }

  static double Nll(std::span<const float> logits, int32_t token) {
    const double max = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(logit - max);
    return max + std::log(sum) - logits[token];
  }

  static constexpr int32_t kMaxTokens = 1024;
  std::string folder_;
  nlohmann::json oracle_;
  LoadedModel model_;
  std::unique_ptr<MtpModule> module_;
};

TEST_F(TrainedModelTest, HeldOutTextAsTheOracleMeasuresIt) {
  const auto text = ModelText::LoadFolder(folder_);
  ASSERT_TRUE(text.ok()) << text.status();
  std::ifstream file(folder_ + "/heldout.txt", std::ios::binary);
  const std::string held_out{std::istreambuf_iterator<char>(file), {}};
  const auto ids = (*text)->Encode(held_out, /*add_special_tokens=*/false);
  ASSERT_TRUE(ids.ok()) << ids.status();
  const nlohmann::json& expected = oracle_.at("heldout");
  ASSERT_EQ(ids->size(), expected.at("tokens").get<size_t>());

  const int num_windows = expected.at("windows");
  double total = 0;
  int agreements = 0, positions = 0;
  for (int w = 0; w < num_windows; ++w) {
    std::vector<int32_t> tokens = {0};
    const auto first = ids->begin() + int64_t{w} * (kWindow - 1);
    tokens.insert(tokens.end(), first, first + kWindow - 1);
    if (w == 0) {
      EXPECT_EQ(tokens,
                expected.at("first_window").get<std::vector<int32_t>>());
    }
    std::vector<float> hidden;
    const std::vector<float> logits = Logits(tokens, &hidden);
    double nll = 0;
    for (int i = 0; i + 1 < kWindow; ++i) {
      nll += Nll(Row(logits, i), tokens[i + 1]);
    }
    nll /= kWindow - 1;
    EXPECT_NEAR(nll, expected.at("nll_per_window")[w].get<double>(), 2e-4)
        << "window " << w;
    total += nll;
    const std::vector<float> drafts = DraftLogits(tokens, hidden);
    for (int i = 0; i + 1 < kWindow; ++i, ++positions) {
      agreements += ArgMax(Row(drafts, i)) == ArgMax(Row(logits, i + 1));
    }
  }
  EXPECT_NEAR(total / num_windows, expected.at("nll").get<double>(), 2e-5);
  const nlohmann::json& mtp = oracle_.at("mtp");
  ASSERT_EQ(positions, mtp.at("positions").get<int>());
  EXPECT_NEAR(static_cast<double>(agreements) / positions,
              mtp.at("agreement_heldout").get<double>(), 5e-4);

  const nlohmann::json& layers = oracle_.at("expert_load").at("layers");
  for (int layer = 0; layer < config().num_hidden_layers; ++layer) {
    const auto load = model_.decoder->expert_load(layer);
    if (layer < config().first_k_dense_replace) {
      EXPECT_TRUE(load.empty());
      continue;
    }
    const auto fractions = layers.at(std::to_string(layer))
                               .at("fraction")
                               .get<std::vector<double>>();
    ASSERT_EQ(load.size(), fractions.size());
    const double sum = static_cast<double>(
        std::accumulate(load.begin(), load.end(), uint64_t{0}));
    EXPECT_EQ(sum,
              double{kWindow} * num_windows * config().num_experts_per_tok);
    for (size_t e = 0; e < load.size(); ++e) {
      EXPECT_NEAR(static_cast<double>(load[e]) / sum, fractions[e], 1e-4)
          << "layer " << layer << " expert " << e;
    }
  }
}

TEST_F(TrainedModelTest, GreedyTokensTopLogitsAndDrafts) {
  int accepted = 0, drafted = 0;
  for (const auto& prompt : oracle_.at("prompts")) {
    auto tokens = prompt.at("ids").get<std::vector<int32_t>>();
    const auto greedy = prompt.at("greedy").get<std::vector<int32_t>>();
    const size_t first = tokens.size() - 1;
    tokens.insert(tokens.end(), greedy.begin(), greedy.end());
    std::vector<float> hidden;
    const std::vector<float> logits = Logits(tokens, &hidden);
    for (size_t step = 0; step < greedy.size(); ++step) {
      EXPECT_EQ(ArgMax(Row(logits, first + step)), greedy[step])
          << prompt.at("name") << " step " << step;
    }
    for (const auto& top : prompt.at("top5")) {
      const int64_t row =
          static_cast<int64_t>(first) + top.at("step").get<int64_t>();
      for (int i = 0; i < 5; ++i) {
        EXPECT_NEAR(Row(logits, row)[top.at("ids")[i].get<size_t>()],
                    top.at("logits")[i].get<double>(), 1e-3)
            << prompt.at("name") << " step " << top.at("step");
      }
    }
    const auto drafts = prompt.at("mtp_drafts").get<std::vector<int32_t>>();
    const std::vector<float> mtp = DraftLogits(tokens, hidden);
    for (size_t i = 0; i < drafts.size(); ++i, ++drafted) {
      const int32_t draft = ArgMax(Row(mtp, first + i));
      EXPECT_EQ(draft, drafts[i]) << prompt.at("name") << " draft " << i;
      accepted += draft == greedy[i + 1];
    }
  }
  const nlohmann::json& mtp = oracle_.at("mtp");
  EXPECT_EQ(drafted, mtp.at("greedy_drafts").get<int>());
  EXPECT_NEAR(static_cast<double>(accepted) / drafted,
              mtp.at("accepted_in_greedy_prompts").get<double>(), 1e-5);
}

}  // namespace
}  // namespace shoal
