#include "kernels/cpu/top_keys.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

namespace shoal::cpu {
namespace {

std::vector<int32_t> BySorting(const std::vector<float>& scores, int32_t k) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  if (order.size() > static_cast<size_t>(k)) order.resize(k);
  std::sort(order.begin(), order.end());
  return order;
}

void ExpectMatches(const std::vector<float>& scores) {
  std::vector<int32_t> order = {7, 7, 7};  // left from another call
  for (const int32_t k : {1, 2, 5, 64, 999, 1000, 2000}) {
    SelectTopKeys(scores, k, &order);
    EXPECT_EQ(order, BySorting(scores, k)) << "top " << k;
  }
}

TEST(TopKeysTest, ScoresOfBothSigns) {
  std::mt19937 random(1);
  for (const float deviation : {1e-30f, 1.0f, 1e30f}) {
    std::vector<float> scores(1000);
    std::normal_distribution<float> normal(0, deviation);
    for (float& score : scores) score = normal(random);
    ExpectMatches(scores);
  }
}

TEST(TopKeysTest, TiesChooseTheEarlier) {
  std::mt19937 random(2);
  std::vector<float> scores(1000);
  for (float& score : scores) score = static_cast<float>(random() % 4);
  ExpectMatches(scores);
  ExpectMatches(std::vector<float>(1000, 0.0f));
}

TEST(TopKeysTest, ZeroHasNoSign) {
  std::vector<float> scores;
  for (int i = 0; i < 500; ++i) {
    scores.push_back(-0.0f);
    scores.push_back(0.0f);
  }
  ExpectMatches(scores);
}

TEST(TopKeysTest, Infinities) {
  std::vector<float> scores(1000, 1.0f);
  scores[3] = scores[998] = INFINITY;
  scores[0] = scores[500] = -INFINITY;
  ExpectMatches(scores);
}

}  // namespace
}  // namespace shoal::cpu
