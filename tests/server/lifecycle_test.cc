#include "server/lifecycle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace shoal {
namespace {

using ::testing::ElementsAre;
using State = Lifecycle::State;

TEST(LifecycleTest, ListenersHearOfEveryChangeOnce) {
  Lifecycle lifecycle;
  std::vector<State> heard;
  lifecycle.AddListener([&](State state) {
    heard.push_back(state);
    EXPECT_EQ(lifecycle.state(), state);
  });
  EXPECT_FALSE(lifecycle.ready());
  EXPECT_TRUE(lifecycle.alive());
  lifecycle.Set(State::kReady);
  lifecycle.Set(State::kReady);
  EXPECT_TRUE(lifecycle.ready());
  lifecycle.Set(State::kDraining);
  EXPECT_THAT(heard, ElementsAre(State::kReady, State::kDraining));
}

TEST(LifecycleTest, DrainingNeverGoesBack) {
  Lifecycle lifecycle;
  lifecycle.Set(State::kDraining);
  lifecycle.Set(State::kReady);
  EXPECT_EQ(lifecycle.state(), State::kDraining);
  EXPECT_TRUE(lifecycle.alive());
}

TEST(LifecycleTest, FailureIsFinal) {
  Lifecycle lifecycle;
  lifecycle.Set(State::kDraining);
  lifecycle.Set(State::kFailed);
  lifecycle.Set(State::kReady);
  EXPECT_EQ(lifecycle.state(), State::kFailed);
  EXPECT_FALSE(lifecycle.alive());
}

}  // namespace
}  // namespace shoal
