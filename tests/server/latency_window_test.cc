#include "server/latency_window.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace shoal {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1000000000);
constexpr std::array<double, 5> kQuantiles = {0, 0.5, 0.9, 0.99, 1};

TEST(LatencyWindowTest, EmptyWindowHasNoQuantiles) {
  const LatencyWindow window;
  for (double value : window.Quantiles(kQuantiles, kStart)) {
    EXPECT_TRUE(std::isnan(value));
  }
}

TEST(LatencyWindowTest, ErrorStaysWithinTheBound) {
  std::mt19937 random(7);
  for (double spread : {0.1, 1.0, 3.0}) {
    LatencyWindow window;
    std::lognormal_distribution<double> draw(std::log(0.05), spread);
    std::vector<double> values;
    for (int i = 0; i < 5000; ++i) {
      values.push_back(std::clamp(draw(random), LatencyWindow::kLowest,
                                  LatencyWindow::kHighest));
      window.Observe(values.back(), kStart + absl::Milliseconds(i));
    }
    std::sort(values.begin(), values.end());
    const std::vector<double> answers =
        window.Quantiles(kQuantiles, kStart + absl::Seconds(6));
    for (size_t i = 0; i < kQuantiles.size(); ++i) {
      const double rank =
          std::max(1.0, std::ceil(kQuantiles[i] * double(values.size())));
      const double exact = values[static_cast<size_t>(rank) - 1];
      EXPECT_NEAR(answers[i], exact,
                  exact * LatencyWindow::kRelativeError * 1.0001);
    }
  }
}

TEST(LatencyWindowTest, ForgetsAfterAMinuteButKeepsTotals) {
  LatencyWindow window;
  window.Observe(1.0, kStart);
  window.Observe(0.1, kStart + absl::Seconds(30));
  const std::array<double, 1> top = {1};
  const auto at = [&](int seconds) {
    return window.Quantiles(top, kStart + absl::Seconds(seconds))[0];
  };
  EXPECT_NEAR(at(54), 1.0, 0.02);
  EXPECT_NEAR(at(60), 0.1, 0.002);
  EXPECT_TRUE(std::isnan(at(90)));
  EXPECT_EQ(window.totals().count, 2u);
  EXPECT_DOUBLE_EQ(window.totals().seconds, 1.1);
}

TEST(LatencyWindowTest, SlotsAreReusedAfterTheRingIsFull) {
  LatencyWindow window;
  const std::array<double, 1> top = {1};
  for (int second = 0; second < 600; ++second) {
    window.Observe(600 - second, kStart + absl::Seconds(second));
  }
  // The largest value left is one of the last minute.
  const double largest = window.Quantiles(top, kStart + absl::Seconds(599))[0];
  EXPECT_GE(largest, 55 * 0.98);
  EXPECT_LE(largest, 60 * 1.02);
}

TEST(LatencyWindowTest, ExtremesAreClamped) {
  LatencyWindow window;
  const std::array<double, 2> ends = {0, 1};
  for (double value : {0.0, -1.0, 1e9, double(INFINITY), double(NAN)}) {
    window.Observe(value, kStart);
  }
  const std::vector<double> answers = window.Quantiles(ends, kStart);
  EXPECT_NEAR(answers[0], LatencyWindow::kLowest, 1e-6);
  EXPECT_NEAR(answers[1], LatencyWindow::kHighest,
              LatencyWindow::kHighest * 0.021);
  EXPECT_EQ(window.totals().count, 3u);
}

TEST(LatencyWindowTest, ManyThreadsLoseNothing) {
  LatencyWindow window;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&window] {
      for (int k = 0; k < 1000; ++k) {
        window.Observe(0.5, kStart + absl::Milliseconds(k));
        if (k % 100 == 0) window.Quantiles(kQuantiles, kStart);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(window.totals().count, 4000u);
}

}  // namespace
}  // namespace shoal
