#include "server/drift.h"

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace shoal {
namespace {

class DriftTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/drift_test_" +
              testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_);
    path_ = folder_ + "/baseline.json";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string folder_;
  std::string path_;
};

DriftOptions SmallOptions() {
  return {.model_name = "tiny",
          .window_tokens = 8,
          .min_window_tokens = 4,
          .min_baseline_tokens = 4};
}

// `count` draws of a Zipf distribution over `vocabulary` tokens, with weights
// 1 / (rank + 2.7)^exponent; every third token is `lift` times as frequent.
std::vector<int32_t> Zipf(int count, int vocabulary, double exponent,
                          double lift, uint32_t seed) {
  std::vector<double> weights;
  for (int i = 0; i < vocabulary; ++i) {
    weights.push_back((i % 3 == 1 ? lift : 1.0) / std::pow(i + 2.7, exponent));
  }
  std::mt19937 random(seed);
  std::discrete_distribution<int32_t> draw(weights.begin(), weights.end());
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(draw(random));
  return tokens;
}

TEST_F(DriftTest, NoValueWithoutBaselineOrWithASmallWindow) {
  DriftMonitor drift(SmallOptions());
  EXPECT_TRUE(std::isnan(drift.Read().kl));
  EXPECT_EQ(drift.RecordBaseline(path_).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(std::filesystem::exists(path_));
  drift.Add(std::vector<int32_t>{1, 2, 3, 4});
  ASSERT_TRUE(drift.RecordBaseline(path_).ok());
  EXPECT_EQ(drift.Read().kl, 0);
  EXPECT_EQ(drift.Read().baseline_tokens, 4);

  DriftMonitor later(SmallOptions());
  ASSERT_TRUE(later.LoadBaseline(path_).ok());
  later.Add(std::vector<int32_t>{1, 2, 3});
  EXPECT_TRUE(std::isnan(later.Read().kl));
  EXPECT_EQ(later.Read().window_tokens, 3);
}

TEST_F(DriftTest, AgreesWithTheFormula) {
  DriftOptions options = SmallOptions();
  options.window_tokens = 1000;
  DriftMonitor drift(options);
  std::vector<int32_t> tokens(500, 1);
  tokens.resize(1000, 2);
  drift.Add(tokens);
  ASSERT_TRUE(drift.RecordBaseline(path_).ok());
  // The window moves on: 800 of token 1, 100 of token 2, 100 unseen ones.
  tokens.assign(800, 1);
  tokens.resize(900, 2);
  for (int32_t token = 100; token < 200; ++token) tokens.push_back(token);
  drift.Add(tokens);
  const double total = 1000 + 0.5 * 3;
  const auto term = [&](double window, double baseline) {
    return (window + 0.5) / total * std::log((window + 0.5) / (baseline + 0.5));
  };
  const double bias = (3 - 1) / 2.0 * (2 / 1000.0);
  EXPECT_NEAR(drift.Read().kl,
              term(800, 500) + term(100, 500) + term(100, 0) - bias, 1e-9);
  EXPECT_EQ(drift.Read().window_tokens, 1000);
}

TEST_F(DriftTest, SamplesOfOneDistributionDoNotDriftAndOthersDo) {
  for (double exponent : {1.0, 1.5}) {
    DriftMonitor recorder({.model_name = "tiny"});
    recorder.Add(Zipf(65536, 50000, exponent, 1, 1));
    ASSERT_TRUE(recorder.RecordBaseline(path_).ok());
    for (int n : {4096, 65536}) {
      DriftMonitor same({.model_name = "tiny"});
      ASSERT_TRUE(same.LoadBaseline(path_).ok());
      same.Add(Zipf(n, 50000, exponent, 1, 2));
      EXPECT_LT(same.Read().kl, 0.005) << exponent << " " << n;
      DriftMonitor other({.model_name = "tiny"});
      ASSERT_TRUE(other.LoadBaseline(path_).ok());
      other.Add(Zipf(n, 50000, exponent, 10, 2));
      EXPECT_GT(other.Read().kl, 0.15) << exponent << " " << n;
    }
  }
}

TEST_F(DriftTest, WindowForgetsItsOldestTokens) {
  DriftOptions options = SmallOptions();
  options.window_tokens = 100;
  DriftMonitor drift(options);
  drift.Add(std::vector<int32_t>(100, 1));
  ASSERT_TRUE(drift.RecordBaseline(path_).ok());
  drift.Add(std::vector<int32_t>(250, 2));
  EXPECT_GT(drift.Read().kl, 1);
  EXPECT_EQ(drift.Read().window_tokens, 100);
  drift.Add(std::vector<int32_t>(100, 1));
  EXPECT_EQ(drift.Read().kl, 0);
}

TEST_F(DriftTest, BaselineSurvivesARestartAndLeavesNoOtherFile) {
  DriftMonitor drift(SmallOptions());
  drift.Add(std::vector<int32_t>{1, 1, 2, 3});
  ASSERT_TRUE(drift.RecordBaseline(path_).ok());
  std::ifstream file(path_);
  std::string text;
  std::getline(file, text);
  EXPECT_EQ(text,
            R"({"counts":[[1,2],[2,1],[3,1]],"model":"tiny","version":1})");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_),
                          std::filesystem::directory_iterator()),
            1);
}

TEST_F(DriftTest, UnwritablePathKeepsTheOldBaseline) {
  DriftMonitor drift(SmallOptions());
  drift.Add(std::vector<int32_t>(5, 1));
  ASSERT_TRUE(drift.RecordBaseline(path_).ok());
  drift.Add(std::vector<int32_t>(3, 2));
  EXPECT_EQ(drift.RecordBaseline(folder_ + "/none/file.json").code(),
            absl::StatusCode::kInternal);
  // A folder lies where the file should go.
  EXPECT_EQ(drift.RecordBaseline(folder_).code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(std::filesystem::exists(folder_ + ".tmp"));
  EXPECT_EQ(drift.Read().baseline_tokens, 5);
}

TEST_F(DriftTest, LoadRefusesWhatIsNoBaselineOfThisModel) {
  DriftMonitor drift(SmallOptions());
  EXPECT_EQ(drift.LoadBaseline(path_).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(drift.LoadBaseline(folder_).code(),
            absl::StatusCode::kInvalidArgument);
  const auto load = [&](const std::string& text) {
    std::ofstream(path_) << text;
    return drift.LoadBaseline(path_).code();
  };
  EXPECT_EQ(load(R"({"version":1,"model":"other","counts":[[1,9]]})"),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(load(R"({"version":1,"model":"tiny","counts":[[1,3]]})"),
            absl::StatusCode::kFailedPrecondition);
  for (const char* text :
       {"", "[]", "{\"version\":1", R"({"version":1,"model":"tiny"})",
        R"({"version":2,"model":"tiny","counts":[[1,9]]})",
        R"({"version":1,"model":"tiny","counts":{"1":9}})",
        R"({"version":1,"model":"tiny","counts":[[1,9],[1,9]]})",
        R"({"version":1,"model":"tiny","counts":[[-1,9]]})",
        R"({"version":1,"model":"tiny","counts":[[1,0]]})",
        R"({"version":1,"model":"tiny","counts":[[4294967296,9]]})",
        R"({"version":1,"model":"tiny","counts":[[1,1e300]]})",
        R"({"version":1,"model":"tiny","counts":[[1,9,9]]})"}) {
    EXPECT_EQ(load(text), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_EQ(drift.Read().baseline_tokens, 0);
  EXPECT_EQ(load(R"({"version":1,"model":"tiny","counts":[[1,9]]})"),
            absl::StatusCode::kOk);
  EXPECT_EQ(drift.Read().baseline_tokens, 9);
}

TEST_F(DriftTest, ManyThreads) {
  DriftMonitor drift(SmallOptions());
  drift.Add(std::vector<int32_t>(8, 1));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 50; ++k) {
        drift.Add(std::vector<int32_t>{i, k});
        drift.Read();
        if (k % 10 == 0) {
          EXPECT_TRUE(drift.RecordBaseline(path_).ok());
        }
        if (k % 10 == 5) {
          EXPECT_TRUE(drift.LoadBaseline(path_).ok());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(drift.Read().window_tokens, 8);
  EXPECT_EQ(drift.Read().baseline_tokens, 8);
}

}  // namespace
}  // namespace shoal
