// Steps that are started before the one ahead of them is finished: on a table
// that says it is asynchronous, the engine gives what it gives on the CPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "engine/engine.h"
#include "tests/engine/checked_table.h"
#include "tests/engine/engine_checks.h"
#include "tests/engine/golden_model.h"
#include "tests/engine/token_reader.h"

namespace shoal {
namespace {

// Notes 'S' when a step's first op is queued and 'F' when what it has drawn is
// waited for, in a model without experts.
class LoggedTable : public CheckedTable {
 public:
  using CheckedTable::CheckedTable;

  void Embedding(const EmbeddingParams& params) override {
    log += 'S';
    CheckedTable::Embedding(params);
  }
  std::unique_ptr<DeviceFetch> Fetch(const void* device,
                                     int64_t bytes) override {
    return std::make_unique<LoggedFetch>(CheckedTable::Fetch(device, bytes),
                                         &log);
  }

  std::string log;  // step thread; read when idle

 private:
  class LoggedFetch : public DeviceFetch {
   public:
    LoggedFetch(std::unique_ptr<DeviceFetch> inner, std::string* log)
        : inner_(std::move(inner)), log_(log) {}
    absl::StatusOr<const void*> Wait() override {
      *log_ += 'F';
      return inner_->Wait();
    }

   private:
    const std::unique_ptr<DeviceFetch> inner_;
    std::string* const log_;
  };
};

class StepCounter : public EngineObserver {
 public:
  void OnAccepted() override {}
  void OnRejected() override {}
  void OnStep(const StepStats& stats) override {
    num_preempted += stats.num_preempted;
    prefix_hit_tokens += stats.prefix_hit_tokens;
  }
  void OnFirstToken(double) override {}
  void OnInterTokenLatency(double) override {}
  void OnTokens(std::span<const int32_t>) override {}
  void OnFinished(const RequestStats& stats) override {
    completion_tokens += stats.num_completion_tokens;
  }
  std::atomic<int64_t> num_preempted = 0, prefix_hit_tokens = 0;
  std::atomic<int64_t> completion_tokens = 0;
};

struct Outcome {
  std::vector<int32_t> tokens;
  std::optional<FinishReason> reason;
  size_t num_logprobs = 0;

  bool operator==(const Outcome&) const = default;
};

class RunAheadTest : public testing::TestWithParam<const char*> {
 protected:
  void Make(std::unique_ptr<KernelTable> table, int64_t cache_bytes) {
    engine_.reset();
    model_ = LoadModel(GoldenPath(GetParam()), std::move(table),
                       Precision::kExact, DType::kF32, 48);
    EngineOptions options;
    options.max_num_batched_tokens = 48;
    options.max_num_seqs = 6;
    options.block_size = 4;
    options.max_model_len = 96;
    options.kv_cache_bytes = cache_bytes;
    auto engine = MakeEngine(std::move(model_.decoder), options,
                             *model_.kernels, &counter_);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }
  LoggedTable& MakeAhead(int64_t cache_bytes) {
    auto table = std::make_unique<LoggedTable>(
        MakeCpuKernelTable(RunnableIsas().back(), 2));
    LoggedTable& logged = *table;
    Make(std::move(table), cache_bytes);
    return logged;
  }

  static std::map<int32_t, Outcome> Collect(EngineStream& stream) {
    std::map<int32_t, Outcome> outcomes;
    for (const TokenEvent& event : ReadEvents(stream)) {
      Outcome& outcome = outcomes[event.index];
      outcome.tokens.insert(outcome.tokens.end(), event.token_ids.begin(),
                            event.token_ids.end());
      outcome.num_logprobs +=
          event.logprobs.size() + event.prompt_logprobs.size();
      outcome.reason = event.finish_reason;
    }
    return outcomes;
  }

  void ExpectIdle() { shoal::ExpectIdle(*engine_); }

  // Of every kind that a step treats in its own way, the same ones each time.
  static std::vector<EngineRequest> Requests() {
    std::mt19937 random(5);
    const auto below = [&](uint32_t n) {
      return static_cast<int32_t>(random() % n);
    };
    std::vector<EngineRequest> requests;
    for (int i = 0; i < 24; ++i) {
      std::vector<int32_t> prompt(3 + below(50));
      for (int32_t& token : prompt) token = i % 2 == 0 ? 7 : below(90);
      EngineRequest request = GreedyRequest(std::move(prompt), 1 + below(40));
      SamplingParams& sampling = request.sampling;
      if (i % 3 != 0) sampling.temperature = 0.5f + static_cast<float>(i % 5);
      sampling.seed = i;
      if (i % 5 == 1) sampling.top_p = 0.8f;
      if (i % 7 == 2) request.n = 3;
      if (i % 6 == 3) sampling.repetition_penalty = 1.3f;
      if (i % 8 == 4) sampling.logprobs = 2;
      if (i % 12 == 5) sampling.prompt_logprobs = 1;
      for (int k = 0; i % 4 == 1 && k < 12; ++k) {
        sampling.stop_token_ids.push_back(below(90));
      }
      if (i % 8 == 1) sampling.min_tokens = 4;
      requests.push_back(std::move(request));
    }
    return requests;
  }

  std::vector<std::map<int32_t, Outcome>> RunAll() {
    std::vector<std::unique_ptr<EngineStream>> streams, cancelled;
    for (EngineRequest& request : Requests()) {
      auto stream = engine_->Submit(request);
      EXPECT_TRUE(stream.ok()) << stream.status();
      streams.push_back(*std::move(stream));
      if (streams.size() % 6 != 0) continue;
      // Others that go away meanwhile.
      auto other = engine_->Submit(GreedyRequest({1, 2, 3}, 80));
      EXPECT_TRUE(other.ok()) << other.status();
      cancelled.push_back(*std::move(other));
    }
    std::vector<std::map<int32_t, Outcome>> outcomes;
    for (size_t i = 0; i < streams.size(); ++i) {
      outcomes.push_back(Collect(*streams[i]));
      if (i % 3 == 0 && !cancelled.empty()) cancelled.pop_back();
    }
    cancelled.clear();
    ExpectIdle();
    return outcomes;
  }

  LoadedModel model_;
  StepCounter counter_;
  std::unique_ptr<Engine> engine_;
};

TEST_P(RunAheadTest, TokensAreThoseOfOneStepAtATime) {
  Make(MakeCpuKernelTable(RunnableIsas().back(), 2), 1 << 20);
  const auto expected = RunAll();
  MakeAhead(1 << 20);
  EXPECT_EQ(RunAll(), expected);
}

INSTANTIATE_TEST_SUITE_P(All, RunAheadTest,
                         testing::Values("llama-gqa", "deepseek_v2-lite",
                                         "deepseek_v4"),
                         FixtureName);

class DenseRunAheadTest : public RunAheadTest {};

// Blocks change hands between a step's start and its end.
TEST_P(DenseRunAheadTest, SequencesGiveWayWhileTheyAreComputed) {
  Make(MakeCpuKernelTable(RunnableIsas().back(), 2), 1 << 20);
  const auto expected = RunAll();
  EXPECT_EQ(counter_.num_preempted, 0);
  MakeAhead(100 << 10);
  EXPECT_EQ(RunAll(), expected);
  EXPECT_GT(counter_.num_preempted, 0);
}

TEST_P(DenseRunAheadTest, TheNextStepStartsBeforeOneIsFinished) {
  LoggedTable& table = MakeAhead(1 << 20);
  EXPECT_EQ(ReadTokens(**engine_->Submit(GreedyRequest({1, 2, 3}, 5))).size(),
            5);
  ExpectIdle();
  // No step is started for more tokens than asked for.
  EXPECT_EQ(table.log, "SSFSFSFSFF");
  table.log.clear();
  EngineRequest request = GreedyRequest({4, 5, 6}, 3);
  request.sampling.logprobs = 1;  // the host must see the logits
  EXPECT_EQ(ReadTokens(**engine_->Submit(request)).size(), 3);
  ExpectIdle();
  EXPECT_EQ(table.log, "SSS");
}

// It ends while it is computed once more.
TEST_P(DenseRunAheadTest, AStopTokenIsTheLastAndCountsAddUp) {
  LoggedTable& table = MakeAhead(1 << 20);
  const std::vector<int32_t> tokens =
      ReadTokens(**engine_->Submit(GreedyRequest({1, 2, 3}, 8)));
  ExpectIdle();
  table.log.clear();
  counter_.completion_tokens = 0;
  EngineRequest request = GreedyRequest({1, 2, 3}, 8);
  request.sampling.stop_token_ids = {tokens[0]};
  const std::vector<TokenEvent> events = ReadEvents(**engine_->Submit(request));
  ASSERT_EQ(events.size(), 1);
  EXPECT_EQ(events[0].token_ids, std::vector<int32_t>{tokens[0]});
  EXPECT_EQ(events[0].finish_reason, FinishReason::kStop);
  ExpectIdle();
  EXPECT_EQ(counter_.completion_tokens, 1);
  // The step that was under way is finished, too, before the engine rests.
  ReadTokens(**engine_->Submit(GreedyRequest({1, 2, 3}, 1)));
  EXPECT_EQ(std::count(table.log.begin(), table.log.end(), 'S'), 3);
  EXPECT_EQ(std::count(table.log.begin(), table.log.end(), 'F'), 3);
}

// What comes later finds the blocks of what has ended.
TEST_P(DenseRunAheadTest, BlocksFilledAheadAreFoundAgain) {
  MakeAhead(1 << 20);
  std::vector<int32_t> prompt(40, 3);
  const std::vector<int32_t> tokens =
      ReadTokens(**engine_->Submit(GreedyRequest(prompt, 12)));
  prompt.insert(prompt.end(), tokens.begin(), tokens.end());
  int32_t num_cached_tokens = 0;
  ReadTokens(**engine_->Submit(GreedyRequest(prompt, 1)), &num_cached_tokens);
  // All but the last token have been computed; of 51 whole blocks hold 48.
  EXPECT_EQ(num_cached_tokens, 48);
}

INSTANTIATE_TEST_SUITE_P(All, DenseRunAheadTest, testing::Values("llama-gqa"),
                         FixtureName);

}  // namespace
}  // namespace shoal
