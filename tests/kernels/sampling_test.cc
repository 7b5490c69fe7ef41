#include "kernels/sampling.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "tests/kernels/op_test_support.h"

namespace shoal {
namespace {

class SamplingTest : public OpTest {
 protected:
  std::vector<int32_t> Sample(const std::vector<float>& logits,
                              const std::vector<TokenDraw>& draws,
                              int64_t rows) {
    std::vector<int32_t> out(rows, -7);
    const auto width = static_cast<int64_t>(logits.size()) / rows;
    table_->Sample({logits.data(), draws.empty() ? nullptr : draws.data(), rows,
                    width, out.data()});
    return out;
  }
};

// The definition, over the whole order.
int32_t Expected(std::span<const float> logits, const TokenDraw& draw) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (draw.temperature == 0) return order[0];
  std::vector<uint64_t> weights(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const double exponent =
        (logits[order[0]] - logits[i]) / static_cast<double>(draw.temperature);
    weights[i] = static_cast<uint64_t>(0x1p40 * std::exp(-exponent));
  }
  if (draw.top_k > 0 && draw.top_k < static_cast<int32_t>(order.size())) {
    order.resize(draw.top_k);
  }
  const auto sum = [&] {
    return std::accumulate(
        order.begin(), order.end(), uint64_t{0},
        [&](uint64_t total, int32_t token) { return total + weights[token]; });
  };
  if (draw.top_p < 1) {
    const double wanted = draw.top_p * static_cast<double>(sum());
    double reached = 0;
    size_t kept = 0;
    while (kept < order.size() && reached < wanted) {
      reached += static_cast<double>(weights[order[kept++]]);
    }
    order.resize(kept);
  }
  std::erase_if(order, [&](int32_t token) {
    return static_cast<double>(weights[token]) < draw.min_p * 0x1p40;
  });
  std::sort(order.begin(), order.end());
  const double wanted =
      static_cast<double>(draw.random) * 0x1p-64 * static_cast<double>(sum());
  double reached = 0;
  for (int32_t token : order) {
    reached += static_cast<double>(weights[token]);
    if (reached > wanted) return token;
  }
  return order.back();
}

// Exponentials are rounded, and not alike everywhere: draws that hardly differ
// from the one made may be what it came to.
bool IsExpected(int32_t token, std::span<const float> logits,
                const TokenDraw& draw) {
  constexpr uint64_t kLittle = uint64_t{1} << 44;
  for (const float top_p :
       {draw.top_p, draw.top_p - 1e-6f, draw.top_p + 1e-6f}) {
    for (const uint64_t random :
         {draw.random, draw.random - std::min(draw.random, kLittle),
          draw.random + std::min(~draw.random, kLittle)}) {
      TokenDraw like = draw;
      like.random = random;
      if (draw.top_p < 1) like.top_p = top_p;
      if (Expected(logits, like) == token) return true;
    }
  }
  return false;
}

TEST_P(SamplingTest, GreedyTakesTheLowestOfTheLargest) {
  Random random(10);
  for (const int64_t width : {1, 2, 31, 33, 1025, 5000}) {
    const int64_t rows = 6;
    auto in = random.Normals(rows * width);
    std::vector<int32_t> expected;
    for (int64_t r = 0; r < rows; ++r) {
      float* row = in.data() + r * width;
      const int64_t at = random.Integer(0, width - 1);
      row[at] = 100;
      if (r == 1) row[width - 1] = 100;  // or the same
      expected.push_back(static_cast<int32_t>(at));
    }
    in[2 * width + random.Integer(0, width - 1)] = NAN;
    in[3 * width + random.Integer(0, width - 1)] = INFINITY;
    std::fill_n(in.begin() + 4 * width, width, -INFINITY);
    for (const int r : {2, 3, 4}) expected[r] = -1;
    std::fill_n(in.begin() + 5 * width, width, -0.0f);
    in[5 * width] = 0;
    expected[5] = 0;
    EXPECT_EQ(Sample(in, {}, rows), expected) << width;
    EXPECT_EQ(Sample(in, std::vector<TokenDraw>(rows), rows), expected);
    for (const int r : {0, 1, 5}) expected[r] = -1;  // whatever they draw
    std::vector<TokenDraw> draws(rows);
    for (TokenDraw& draw : draws) draw.temperature = 1;
    const std::vector<int32_t> drawn = Sample(in, draws, rows);
    for (const int r : {2, 3, 4}) EXPECT_EQ(drawn[r], -1);
  }
}

TEST_P(SamplingTest, DrawsByTheDefinition) {
  Random random(11);
  for (const int64_t width : {1, 2, 33, 1000, 4000}) {
    std::vector<TokenDraw> draws;
    for (const float temperature : {0.01f, 0.7f, 1.0f, 40.0f}) {
      for (const int32_t top_k : {0, 1, 20, 1500}) {
        for (const float top_p : {1.0f, 0.9f, 1e-9f}) {
          for (const float min_p : {0.0f, 0.03f, 1.0f}) {
            const auto bits = static_cast<uint64_t>(
                random.Integer(std::numeric_limits<int64_t>::min(),
                               std::numeric_limits<int64_t>::max()));
            draws.push_back({temperature, top_k, top_p, min_p, bits});
          }
        }
      }
    }
    draws[0].random = 0;
    draws[1].random = ~uint64_t{0};
    const auto rows = static_cast<int64_t>(draws.size());
    auto logits = random.Normals(rows * width, 3.0f);
    for (int64_t r = 0; r < rows; ++r) {
      float* row = logits.data() + r * width;
      if (r % 3 == 1) {  // many equals
        for (int64_t i = 0; i < width; ++i) row[i] = std::round(row[i]);
      }
      if (r % 5 == 1) row[random.Integer(0, width - 1)] = 20;
      if (r % 7 == 1 && width > 2) row[1] = -INFINITY;
    }
    const std::vector<int32_t> out = Sample(logits, draws, rows);
    for (int64_t r = 0; r < rows; ++r) {
      const TokenDraw& draw = draws[r];
      const std::span<const float> row(logits.data() + r * width, width);
      ASSERT_TRUE(IsExpected(out[r], row, draw))
          << out[r] << " of " << width << ", expected " << Expected(row, draw)
          << "; temperature " << draw.temperature << " top_k " << draw.top_k
          << " top_p " << draw.top_p << " min_p " << draw.min_p;
    }
  }
}

TEST_P(SamplingTest, AllEqualLogitsAreDrawnAlike) {
  constexpr int64_t kWidth = 3000;
  const std::vector<float> row(kWidth, 2.5f);
  std::vector<TokenDraw> draws(6);
  for (size_t r = 0; r < draws.size(); ++r) {
    draws[r].temperature = 1;
    draws[r].random = (uint64_t{1} << 63) + 1;  // the middle
    draws[r].top_k = r % 2 == 1 ? 2000 : 0;
    draws[r].top_p = r / 2 == 0 ? 1.0f : r / 2 == 1 ? 0.5f : 1e-9f;
  }
  std::vector<float> logits;
  for (size_t r = 0; r < draws.size(); ++r) {
    logits.insert(logits.end(), row.begin(), row.end());
  }
  const std::vector<int32_t> expected = {1500, 1000, 750, 500, 0, 0};
  EXPECT_EQ(Sample(logits, draws, 6), expected);
}

INSTANTIATE_OP_TEST(SamplingTest);

}  // namespace
}  // namespace shoal
