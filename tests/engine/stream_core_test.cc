#include "engine/stream_core.h"

#include "gtest/gtest.h"

namespace shoal {
namespace {

TokenEvent EventOf(int64_t num_logprobs) {
  TokenEvent event;
  event.prompt_logprobs.resize(1);
  event.prompt_logprobs[0].top.resize(num_logprobs - 1);
  return event;
}

TEST(StreamCoreTest, EventsFillItAndHalfOfThemMakeRoom) {
  int room = 0;
  StreamCore core(4, 1, [&] { ++room; });
  for (int i = 0; i < 3; ++i) core.Push({});
  EXPECT_FALSE(core.full());
  core.Push({});
  EXPECT_TRUE(core.full());
  core.TryNext();
  EXPECT_TRUE(core.full());
  core.TryNext();
  EXPECT_FALSE(core.full());
  EXPECT_EQ(room, 1);
}

TEST(StreamCoreTest, LogprobsFillItAlone) {
  int room = 0;
  StreamCore core(1000, 1, [&] { ++room; });
  core.Push(EventOf(kMaxWaitingLogprobs / 2));
  core.Push(EventOf(kMaxWaitingLogprobs / 2 - 1));
  EXPECT_FALSE(core.full());
  TokenEvent token;
  token.logprobs.resize(1);
  core.Push(token);
  EXPECT_TRUE(core.full());
  core.TryNext();
  EXPECT_FALSE(core.full());
  EXPECT_EQ(room, 1);
}

TEST(StreamCoreTest, OneLargerThanAllIsKept) {
  StreamCore core(1000, 1, [] {});
  core.Push(EventOf(2 * kMaxWaitingLogprobs));
  EXPECT_TRUE(core.full());
  ASSERT_TRUE(core.TryNext().has_value());
  EXPECT_FALSE(core.full());
  EXPECT_FALSE(core.TryNext().has_value());
}

}  // namespace
}  // namespace shoal
