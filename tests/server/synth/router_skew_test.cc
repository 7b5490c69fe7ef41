// Shares of experts, and routers that give them to random inputs.
#include "server/synth/router_skew.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using testing::DoubleNear;
using testing::Each;
using testing::Pointwise;

// How often each expert is among the top ones, the most popular first.
std::vector<double> Measure(
    const RouterShape& shape, int tokens,
    const std::function<std::vector<double>(SynthRandom&)>& scores) {
  SynthRandom random(1);
  std::vector<double> counts(shape.num_experts);
  std::vector<int> order(shape.num_experts);
  for (int t = 0; t < tokens; ++t) {
    const std::vector<double> values = scores(random);
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + shape.num_chosen,
                      order.end(),
                      [&](int a, int b) { return values[a] > values[b]; });
    for (int64_t k = 0; k < shape.num_chosen; ++k) {
      counts[order[k]] += 1.0 / tokens;
    }
  }
  std::sort(counts.rbegin(), counts.rend());
  return counts;
}

TEST(ExpertSharesTest, WithoutSkewAreEqual) {
  EXPECT_THAT(ExpertShares({16, 4, 0}), Each(DoubleNear(0.25, 1e-12)));
}

TEST(ExpertSharesTest, FallAsThePower) {
  const std::vector<double> shares = ExpertShares({256, 1, 0.5});
  EXPECT_NEAR(shares[3] / shares[0], 0.5, 1e-12);
  EXPECT_NEAR(shares[255] / shares[0], 1 / 16.0, 1e-12);
}

TEST(ExpertSharesTest, SumToTheChosenWithNoneAboveOne) {
  for (const double exponent : {0.0, 0.5, 1.0, 2.0, 10.0}) {
    for (const int64_t chosen : {1, 6, 8, 16}) {
      const std::vector<double> shares = ExpertShares({16, chosen, exponent});
      EXPECT_NEAR(std::accumulate(shares.begin(), shares.end(), 0.0),
                  static_cast<double>(chosen), 1e-9);
      EXPECT_LE(shares.front(), 1 + 1e-12);
      EXPECT_TRUE(std::is_sorted(shares.rbegin(), shares.rend()));
    }
  }
}

TEST(NormalQuantileTest, KnownValues) {
  EXPECT_NEAR(NormalQuantile(0.5), 0, 1e-9);
  EXPECT_NEAR(NormalQuantile(0.975), 1.959964, 1e-6);
  EXPECT_NEAR(NormalQuantile(1e-6), -4.753424, 1e-6);
}

TEST(CorrectionBiasesTest, GiveTheShares) {
  const RouterShape shape = {64, 6, 1};
  const auto sigmoid = [](double z) { return 1 / (1 + std::exp(-z)); };
  SynthRandom random(2);
  const std::vector<float> biases = CorrectionBiases(shape, sigmoid, random);
  const auto measured = Measure(shape, 4000, [&](SynthRandom& inputs) {
    std::vector<double> scores;
    for (const float bias : biases) {
      scores.push_back(sigmoid(inputs.Normal()) + bias);
    }
    return scores;
  });
  // The threshold is not quite the same for each token.
  EXPECT_THAT(measured, Pointwise(DoubleNear(0.06), ExpertShares(shape)));
  EXPECT_GT(measured.front(), 8 * measured.back());
}

TEST(CorrectionBiasesTest, WithoutSkewAreZero) {
  SynthRandom random(2);
  EXPECT_THAT(CorrectionBiases(
                  {16, 4, 0}, [](double z) { return z; }, random),
              Each(testing::FloatNear(0, 1e-6f)));
}

TEST(SkewedRouterRowsTest, GiveTheShares) {
  const RouterShape shape = {32, 4, 1};
  constexpr int64_t kWidth = 256;
  SynthRandom random(3);
  const std::vector<float> rows = SkewedRouterRows(shape, kWidth, random);
  const auto measured = Measure(shape, 2000, [&](SynthRandom& inputs) {
    std::vector<double> x;
    for (int64_t i = 0; i < kWidth; ++i) {
      x.push_back(kSharedMean + kOwnDeviation * inputs.Normal());
    }
    std::vector<double> scores;
    for (int64_t e = 0; e < shape.num_experts; ++e) {
      scores.push_back(std::inner_product(x.begin(), x.end(),
                                          rows.begin() + e * kWidth, 0.0));
    }
    return scores;
  });
  EXPECT_THAT(measured, Pointwise(DoubleNear(0.08), ExpertShares(shape)));
}

}  // namespace
}  // namespace shoal
