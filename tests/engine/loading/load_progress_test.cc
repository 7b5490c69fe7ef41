#include "engine/loading/load_progress.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using testing::ElementsAre;

class LoadProgressTest : public testing::Test {
 protected:
  LoadProgress Recorder(double quiet_seconds) {
    return AfterDelay([this](double fraction,
                             std::string_view) { shown_.push_back(fraction); },
                      quiet_seconds);
  }
  std::vector<double> shown_;
};

TEST_F(LoadProgressTest, AQuickLoadShowsNothing) {
  const LoadProgress progress = Recorder(1000);
  for (const double fraction : {0.0, 0.5, 1.0}) progress(fraction, "weights");
  EXPECT_THAT(shown_, ElementsAre());
}

TEST_F(LoadProgressTest, ASlowOneShowsItselfNotTooOftenAndItsEnd) {
  const LoadProgress progress = Recorder(0);
  progress(0.25, "weights");
  for (int i = 0; i < 100; ++i) progress(0.5, "weights");  // within 100 ms
  progress(1, "weights");
  ASSERT_LT(shown_.size(), 10u);
  EXPECT_EQ(shown_.front(), 0.25);
  EXPECT_EQ(shown_.back(), 1);
}

TEST_F(LoadProgressTest, NobodyToTellIsNoCallback) {
  EXPECT_EQ(AfterDelay(nullptr), nullptr);
}

}  // namespace
}  // namespace shoal
