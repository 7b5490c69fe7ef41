#include "engine/sampling/sampler.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using testing::HasSubstr;

SamplingParams Params() {
  SamplingParams params;
  params.max_tokens = 10;
  return params;
}

std::vector<float> RandomLogits(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// Counts of `draws` tokens from copies of the same logits.
std::vector<int> Draw(const SamplingParams& params,
                      const std::vector<float>& logits, int draws) {
  Sampler sampler(params, 42, nullptr);
  std::vector<int> counts(logits.size());
  for (int i = 0; i < draws; ++i) {
    std::vector<float> copy = logits;
    const absl::StatusOr<int32_t> token = sampler.Sample(copy, {});
    EXPECT_TRUE(token.ok());
    ++counts[*token];
  }
  return counts;
}

// Probabilities by the definitions, in double and over a full sort.
std::vector<double> Expected(const SamplingParams& params,
                             const std::vector<float>& logits) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return logits[a] > logits[b]; });
  std::vector<double> weights;
  for (int token : order) {
    weights.push_back(
        std::exp((static_cast<double>(logits[token]) - logits[order[0]]) /
                 params.temperature));
  }
  size_t kept = weights.size();
  if (params.top_k > 0) kept = std::min<size_t>(kept, params.top_k);
  if (params.top_p < 1) {
    const double total =
        std::accumulate(weights.begin(), weights.begin() + kept, 0.0);
    double reached = 0;
    size_t nucleus = 0;
    while (nucleus < kept && reached < params.top_p * total) {
      reached += weights[nucleus++];
    }
    kept = nucleus;
  }
  size_t likely = 0;
  while (likely < kept && weights[likely] >= params.min_p) ++likely;
  kept = likely;
  const double total =
      std::accumulate(weights.begin(), weights.begin() + kept, 0.0);
  std::vector<double> result(logits.size());
  for (size_t i = 0; i < kept; ++i) result[order[i]] = weights[i] / total;
  return result;
}

TEST(SamplerTest, GreedyTakesTheLowestOfEquals) {
  SamplingParams params = Params();
  params.temperature = 0;
  Sampler sampler(params, 1, nullptr);
  std::vector<float> logits = {0, 2, 1, 2};
  EXPECT_EQ(*sampler.Sample(logits, {}), 1);
  EXPECT_EQ(*sampler.Sample(logits, std::vector<int32_t>{1}), 3);
}

TEST(SamplerTest, DrawsFollowTheDistribution) {
  std::vector<SamplingParams> cases;
  for (float temperature : {0.5f, 1.0f, 2.0f}) {
    SamplingParams params = Params();
    params.temperature = temperature;
    cases.push_back(params);
    params.top_k = 7;
    cases.push_back(params);
    params.top_p = 0.8f;
    cases.push_back(params);
    params.top_k = 0;
    cases.push_back(params);
    params.top_p = 1;
    params.min_p = 0.05f;
    cases.push_back(params);
    params.top_p = 0.8f;
    params.min_p = 0.3f;
    cases.push_back(params);
  }
  constexpr int kDraws = 20000;
  for (const SamplingParams& params : cases) {
    const std::vector<float> logits = RandomLogits(100, 9);
    const std::vector<int> counts = Draw(params, logits, kDraws);
    const std::vector<double> expected = Expected(params, logits);
    double chi = 0;
    int cells = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      if (expected[i] == 0) {
        EXPECT_EQ(counts[i], 0);
      } else if (expected[i] * kDraws >= 5) {
        const double difference = counts[i] - expected[i] * kDraws;
        chi += difference * difference / (expected[i] * kDraws);
        ++cells;
      }
    }
    // Mean and deviation of chi-square; the seed is fixed, so this is stable.
    EXPECT_LT(chi, cells + 5 * std::sqrt(2.0 * cells));
  }
}

TEST(SamplerTest, MinPDoesNotNarrowTheNucleusItself) {
  SamplingParams params = Params();
  params.top_p = 0.8f;
  params.min_p = 0.2f;
  // The nucleus is the first three; min-p first would leave top-p the first two
  // of a smaller whole.
  std::vector<float> logits;
  for (float p : {0.5f, 0.2f, 0.15f, 0.08f, 0.07f}) {
    logits.push_back(std::log(p));
  }
  const std::vector<int> counts = Draw(params, logits, 1000);
  EXPECT_GT(counts[2], 0);
  EXPECT_EQ(counts[0] + counts[1] + counts[2], 1000);
}

// The inverse of the smallest temperatures is not a finite float.
TEST(SamplerTest, TheSmallestTemperatureDrawsOneOfTheBest) {
  SamplingParams params = Params();
  params.temperature = std::numeric_limits<float>::denorm_min();
  ASSERT_TRUE(ValidateSamplingParams(params, 4).ok());
  const std::vector<int> counts = Draw(params, {0, 2, 1, 2}, 200);
  EXPECT_EQ(counts[1] + counts[3], 200);
  EXPECT_GT(counts[1], 0);
  EXPECT_GT(counts[3], 0);
}

TEST(SamplerTest, PenaltiesAndBiasChangeTheLogits) {
  SamplingParams params = Params();
  params.temperature = 0;
  params.repetition_penalty = 2;
  params.presence_penalty = 0.5f;
  params.frequency_penalty = 0.25f;
  params.logit_bias = {{3, 1.0f}};
  Sampler sampler(params, 1, nullptr);
  sampler.AddPrompt(std::vector<int32_t>{0, 1});
  ASSERT_TRUE(sampler.Accept(2).ok());
  ASSERT_TRUE(sampler.Accept(2).ok());
  std::vector<float> logits = {4, -4, 4, 0, 1};
  ASSERT_TRUE(sampler.Sample(logits, {}).ok());
  EXPECT_EQ(logits, (std::vector<float>{2, -8, 2 - 0.5f - 0.5f, 1, 1}));
}

TEST(SamplerTest, OnlyAllowedTokensAreChosen) {
  SamplingParams params = Params();
  params.allowed_token_ids = {4, 5};
  const std::vector<int> counts = Draw(params, RandomLogits(50, 2), 200);
  EXPECT_EQ(counts[4] + counts[5], 200);
}

TEST(SamplerTest, BadLogitsAreAnError) {
  Sampler sampler(Params(), 1, nullptr);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (std::vector<float> logits :
       {std::vector<float>{0, nan, 1}, std::vector<float>{nan, 0, 1},
        std::vector<float>{-infinity, -infinity},
        std::vector<float>{0, infinity}}) {
    EXPECT_EQ(sampler.Sample(logits, {}).status().code(),
              absl::StatusCode::kInternal);
  }
}

TEST(SamplerTest, TheSameSeedDrawsTheSame) {
  const std::vector<float> logits = RandomLogits(1000, 4);
  EXPECT_EQ(Draw(Params(), logits, 50), Draw(Params(), logits, 50));
}

TEST(SamplerTest, ACopyGoesOnAsTheOriginal) {
  const std::vector<float> logits = RandomLogits(1000, 4);
  const auto draw = [&](Sampler& sampler, int count) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < count; ++i) {
      std::vector<float> copy = logits;
      tokens.push_back(*sampler.Sample(copy, {}));
    }
    return tokens;
  };
  Sampler original(Params(), 7, nullptr);
  const std::vector<int32_t> start = draw(original, 10);
  Sampler resumed = original;
  const std::vector<int32_t> rest = draw(original, 40);
  EXPECT_EQ(draw(resumed, 40), rest);
  Sampler other(Params(), 8, nullptr);
  EXPECT_NE(draw(other, 10), start);
}

TEST(LogprobsTest, WholeVocabularySumsToOneInFallingOrder) {
  const std::vector<float> logits = RandomLogits(500, 6);
  const PositionLogprobs result = ComputeLogprobs(logits, 17, 500);
  ASSERT_EQ(result.top.size(), 500);
  double sum = 0;
  for (size_t i = 0; i < result.top.size(); ++i) {
    sum += std::exp(result.top[i].logprob);
    EXPECT_EQ(result.top[i].rank, i + 1);
    if (i > 0) {
      EXPECT_LE(result.top[i].logprob, result.top[i - 1].logprob);
    }
    if (result.top[i].token == 17) {
      EXPECT_EQ(result.chosen.rank, result.top[i].rank);
      EXPECT_EQ(result.chosen.logprob, result.top[i].logprob);
    }
  }
  EXPECT_NEAR(sum, 1, 1e-5);
}

TEST(LogprobsTest, EqualsRankByIdAndTheImpossibleComesLast) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> logits = {1, -infinity, 2, 1, 2};
  const std::vector<int32_t> order = {2, 4, 0, 3, 1};
  const PositionLogprobs result = ComputeLogprobs(logits, 3, 5);
  EXPECT_EQ(result.chosen.token, 3);
  EXPECT_EQ(result.chosen.rank, 4);
  ASSERT_EQ(result.top.size(), order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    EXPECT_EQ(result.top[i].token, order[i]);
    EXPECT_EQ(ComputeLogprobs(logits, order[i], 0).chosen.rank, i + 1);
  }
  EXPECT_EQ(result.top[4].logprob, -infinity);
  EXPECT_FLOAT_EQ(result.top[0].logprob,
                  std::log(1 / (2 + 2 * std::exp(-1.0f))));
}

TEST(SamplingParamsTest, EachParameterOutOfRangeNamesItself) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  struct Case {
    const char* name;
    void (*change)(SamplingParams&);
  };
  const Case cases[] = {
      {"temperature", [](SamplingParams& p) { p.temperature = -1; }},
      {"temperature", [](SamplingParams& p) { p.temperature = 1e9f; }},
      {"top_p", [](SamplingParams& p) { p.top_p = 0; }},
      {"top_p", [](SamplingParams& p) { p.top_p = 1.1f; }},
      {"top_k", [](SamplingParams& p) { p.top_k = -1; }},
      {"min_p", [](SamplingParams& p) { p.min_p = 2; }},
      {"repetition_penalty",
       [](SamplingParams& p) { p.repetition_penalty = 0; }},
      {"presence_penalty", [](SamplingParams& p) { p.presence_penalty = 3; }},
      {"frequency_penalty",
       [](SamplingParams& p) { p.frequency_penalty = -3; }},
      {"logit_bias",
       [](SamplingParams& p) {
         p.logit_bias = {{100, 1}};
       }},
      {"logit_bias",
       [](SamplingParams& p) {
         p.logit_bias = {{1, 1e9f}};
       }},
      {"stop_token_ids", [](SamplingParams& p) { p.stop_token_ids = {-1}; }},
      {"allowed_token_ids",
       [](SamplingParams& p) { p.allowed_token_ids = {100}; }},
      {"max_tokens", [](SamplingParams& p) { p.max_tokens = 0; }},
      {"min_tokens", [](SamplingParams& p) { p.min_tokens = 11; }},
      {"logprobs", [](SamplingParams& p) { p.logprobs = 101; }},
      {"prompt_logprobs", [](SamplingParams& p) { p.prompt_logprobs = -2; }},
  };
  EXPECT_TRUE(ValidateSamplingParams(Params(), 100).ok());
  for (const Case& c : cases) {
    SamplingParams params = Params();
    c.change(params);
    const absl::Status status = ValidateSamplingParams(params, 100);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.name));
  }
  SamplingParams params = Params();
  params.temperature = nan;
  EXPECT_FALSE(ValidateSamplingParams(params, 100).ok());
}

TEST(SamplingParamsTest, ATokenIdIsShownWhole) {
  SamplingParams params = Params();
  params.logit_bias = {{99999999, 1}};
  EXPECT_THAT(std::string(ValidateSamplingParams(params, 100).message()),
              HasSubstr("got 99999999"));
}

}  // namespace
}  // namespace shoal
