// What tests of the engine have in common. Test support.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "absl/time/clock.h"
#include "engine/engine.h"

namespace shoal {

// Waits until the engine holds nothing, and checks that all blocks are free.
inline void ExpectIdle(Engine& engine) {
  ASSERT_TRUE(engine.AwaitIdle(absl::Now() + absl::Seconds(30)));
  const EngineSnapshot snapshot = engine.Snapshot();
  EXPECT_EQ(snapshot.free_blocks, snapshot.total_blocks);
  EXPECT_EQ(snapshot.num_running, 0);
  EXPECT_EQ(snapshot.num_waiting, 0);
}

// The name of a golden model as part of a test's.
inline std::string FixtureName(
    const testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

}  // namespace shoal
