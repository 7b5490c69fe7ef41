// What becomes of requests when the device fails under a step.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "engine/engine.h"
#include "gtest/gtest.h"
#include "tests/engine/checked_table.h"
#include "tests/engine/engine_checks.h"
#include "tests/engine/golden_model.h"
#include "tests/engine/token_reader.h"

namespace shoal {
namespace {

constexpr absl::Duration kLimit = absl::Seconds(1);

class EngineFaultTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    model_ = LoadModel(GoldenPath(GetParam()), {CpuIsa::kScalar, true},
                       Precision::kExact, DType::kF32, 32);
    EngineOptions options;
    options.max_num_batched_tokens = 32;
    options.max_num_seqs = 2;
    options.kv_cache_bytes = 1 << 22;
    auto engine = MakeEngine(std::move(model_.decoder), options,
                             *model_.kernels, nullptr);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }

  CheckedTable& device() { return static_cast<CheckedTable&>(*model_.kernels); }

  static EngineRequest Request() { return GreedyRequest({1, 2, 3, 4, 5}, 100); }

  void ExpectFailed() {
    EXPECT_TRUE(engine_->AwaitIdle(absl::Now() + kLimit));
    const EngineSnapshot snapshot = engine_->Snapshot();
    EXPECT_EQ(snapshot.health.code(), absl::StatusCode::kInternal);
    EXPECT_EQ(snapshot.free_blocks, snapshot.total_blocks);
    EXPECT_EQ(engine_->Submit(Request()).status().code(),
              absl::StatusCode::kInternal);
  }

  LoadedModel model_;
  std::unique_ptr<Engine> engine_;
};

// Two run, three wait; the fault comes in a prefill, while tokens are decoded,
// or between a step's passes.
TEST_P(EngineFaultTest, EndsEveryStreamWithAnError) {
  for (const int num_ops : {0, 3, 61, 500}) {
    if (num_ops > 0) SetUp();
    std::vector<std::unique_ptr<EngineStream>> streams;
    for (int i = 0; i < 5; ++i) {
      auto stream = engine_->Submit(Request());
      ASSERT_TRUE(stream.ok()) << stream.status();
      streams.push_back(*std::move(stream));
    }
    device().FailAfter(num_ops);
    absl::Time failed;
    for (const auto& stream : streams) {
      const TokenEvent last = ReadEvents(*stream).back();
      EXPECT_EQ(last.finish_reason, FinishReason::kError);
      EXPECT_EQ(last.status.code(), absl::StatusCode::kInternal);
      if (failed == absl::Time()) failed = absl::Now();
    }
    EXPECT_LT(absl::Now() - failed, kLimit);
    ExpectFailed();
    engine_.reset();
  }
}

// Whoever is told nothing at Submit is told by the stream.
TEST_P(EngineFaultTest, ArrivalsMeanwhileEndWithAnErrorToo) {
  std::vector<std::unique_ptr<EngineStream>> streams;
  absl::Status refusal;
  while (refusal.ok()) {
    auto stream = engine_->Submit(Request());
    refusal = stream.status();
    if (stream.ok()) streams.push_back(*std::move(stream));
    if (streams.size() == 20) device().FailAfter(0);
  }
  EXPECT_TRUE(absl::IsInternal(refusal) || absl::IsResourceExhausted(refusal))
      << refusal;
  for (const auto& stream : streams) {
    const TokenEvent last = ReadEvents(*stream).back();
    EXPECT_EQ(last.finish_reason, FinishReason::kError);
    EXPECT_EQ(last.status.code(), absl::StatusCode::kInternal);
  }
  ExpectFailed();
}

INSTANTIATE_TEST_SUITE_P(All, EngineFaultTest,
                         testing::Values("llama-gqa", "deepseek_v2-lite",
                                         "deepseek_v4"),
                         FixtureName);

}  // namespace
}  // namespace shoal
