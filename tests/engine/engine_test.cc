// The engine's promises to its users, on a golden model.
#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <numeric>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/engine_checks.h"
#include "tests/engine/golden_model.h"
#include "tests/engine/token_reader.h"

namespace shoal {
namespace {

using testing::HasSubstr;

class CountingObserver : public EngineObserver {
 public:
  void OnAccepted() override { ++accepted; }
  void OnRejected() override { ++rejected; }
  void OnStep(const StepStats& stats) override {
    prefill_tokens += stats.num_prefill_tokens;
  }
  void OnFirstToken(double) override { ++first_tokens; }
  void OnInterTokenLatency(double) override {}
  void OnTokens(std::span<const int32_t> ids) override {
    tokens += static_cast<int>(ids.size());
  }
  void OnFinished(const RequestStats& stats) override {
    ++finished[stats.reason];
    completion_tokens += stats.num_completion_tokens;
  }
  std::atomic<int> accepted = 0, rejected = 0, first_tokens = 0, tokens = 0;
  std::atomic<int> prefill_tokens = 0, completion_tokens = 0;
  std::map<FinishReason, int> finished;  // step thread; read when idle
};

class EngineTest : public testing::Test {
 protected:
  void SetUp() override { Make({}); }

  void Make(EngineOptions options) {
    engine_.reset();
    model_ = LoadModel(GoldenPath("llama-gqa"), CpuIsa::kScalar,
                       Precision::kExact, DType::kF32, 128);
    options.max_num_batched_tokens =
        std::min(options.max_num_batched_tokens, 128);
    options.block_size = 4;
    options.kv_cache_bytes = 1 << 20;
    auto engine = MakeEngine(std::move(model_.decoder), options,
                             *model_.kernels, &observer_);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }

  static EngineRequest Request(int32_t max_tokens,
                               std::vector<int32_t> prompt = {1, 2, 3, 4, 5}) {
    return GreedyRequest(std::move(prompt), max_tokens);
  }
  std::unique_ptr<EngineStream> Submit(EngineRequest request) {
    auto stream = engine_->Submit(std::move(request));
    EXPECT_TRUE(stream.ok()) << stream.status();
    return *std::move(stream);
  }
  absl::Status Refusal(EngineRequest request) {
    return engine_->Submit(std::move(request)).status();
  }
  void ExpectIdle() { shoal::ExpectIdle(*engine_); }

  LoadedModel model_;
  CountingObserver observer_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, EndsWithLengthAndCountsAddUp) {
  auto stream = Submit(Request(7));
  const auto events = ReadEvents(*stream);
  EXPECT_EQ(events.back().finish_reason, FinishReason::kLength);
  ExpectIdle();
  EXPECT_EQ(observer_.accepted, 1);
  EXPECT_EQ(observer_.first_tokens, 1);
  EXPECT_EQ(observer_.tokens, 7);
  EXPECT_EQ(observer_.completion_tokens, 7);
  EXPECT_EQ(observer_.prefill_tokens, 5);
  EXPECT_EQ(observer_.finished[FinishReason::kLength], 1);
}

TEST_F(EngineTest, StopTokenEndsAndMinTokensForbidsIt) {
  const std::vector<int32_t> tokens = ReadTokens(*Submit(Request(8)));
  EngineRequest request = Request(8);
  request.sampling.stop_token_ids = {tokens[2]};
  const size_t first =
      std::find(tokens.begin(), tokens.end(), tokens[2]) - tokens.begin();
  const auto events = ReadEvents(*Submit(request));
  EXPECT_EQ(events.size(), first + 1);
  EXPECT_EQ(events.back().finish_reason, FinishReason::kStop);
  EXPECT_EQ(events.back().stop_token_id, tokens[2]);
  request.sampling.min_tokens = 6;
  const std::vector<int32_t> longer = ReadTokens(*Submit(request));
  EXPECT_GE(longer.size(), 6);
  EXPECT_EQ(std::count(longer.begin(), longer.begin() + 6, tokens[2]), 0);
}

// Tokens are drawn where the logits lie, or on the host where something changes
// or reads the logits first; both in one step, in whatever order they came.
TEST_F(EngineTest, DrawsAreTheSameWhereverTheyAreMade) {
  std::vector<std::unique_ptr<EngineStream>> plain, read;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    EngineRequest request = Request(16);
    request.sampling.temperature = seed % 4 == 0 ? 0.0f : 1.5f;
    request.sampling.top_k = seed % 3 == 0 ? 20 : 0;
    request.sampling.top_p = seed % 2 == 0 ? 0.9f : 1.0f;
    request.sampling.seed = seed;
    plain.push_back(Submit(request));
    if (seed % 2 == 0) {
      request.sampling.logprobs = 0;
    } else {
      request.sampling.prompt_logprobs = 0;
    }
    read.push_back(Submit(request));
  }
  for (size_t i = 0; i < plain.size(); ++i) {
    const std::vector<int32_t> tokens = ReadTokens(*plain[i]);
    EXPECT_EQ(tokens.size(), 16);
    EXPECT_EQ(tokens, ReadTokens(*read[i])) << i;
  }
}

TEST_F(EngineTest, SequencesOfARequestDifferAndShareThePrompt) {
  EngineRequest request = Request(12, std::vector<int32_t>(40, 3));
  std::iota(request.prompt_token_ids.begin(), request.prompt_token_ids.end(),
            1);
  request.n = 3;
  request.sampling.temperature = 2;
  request.sampling.seed = 7;
  const auto collect = [&](EngineStream& stream) {
    std::map<int32_t, std::vector<int32_t>> tokens;
    for (const TokenEvent& event : ReadEvents(stream)) {
      auto& list = tokens[event.index];
      list.insert(list.end(), event.token_ids.begin(), event.token_ids.end());
    }
    return tokens;
  };
  const auto once = collect(*Submit(request));
  ASSERT_EQ(once.size(), 3);
  for (const auto& [index, tokens] : once) EXPECT_EQ(tokens.size(), 12);
  EXPECT_NE(once.at(0), once.at(1));
  // The siblings found the prompt in the cache.
  EXPECT_LT(observer_.prefill_tokens, 2 * 40);
  // Seeds repeat, also beside others.
  auto other = Submit(Request(30));
  EXPECT_EQ(collect(*Submit(request)), once);
  ReadEvents(*other);
  ExpectIdle();
}

TEST_F(EngineTest, LogprobsOfPromptAndCompletionCoverTheVocabulary) {
  const auto vocab_size = static_cast<int32_t>(engine_->config().vocab_size);
  EngineRequest request = Request(3, std::vector<int32_t>(150));
  std::iota(request.prompt_token_ids.begin(), request.prompt_token_ids.end(),
            0);
  request.sampling.logprobs = vocab_size;
  request.sampling.prompt_logprobs = vocab_size;
  auto events = ReadEvents(*Submit(request));
  // An event for each of the prompt's two chunks, the latter with a token.
  ASSERT_EQ(events.size(), 4);
  EXPECT_EQ(events[0].prompt_logprobs.size(), 128);
  EXPECT_TRUE(events[0].token_ids.empty());
  std::vector<PositionLogprobs> prompt = std::move(events[0].prompt_logprobs);
  prompt.insert(prompt.end(), events[1].prompt_logprobs.begin(),
                events[1].prompt_logprobs.end());
  events.erase(events.begin());
  ASSERT_EQ(prompt.size(), 149);
  const auto check = [&](const PositionLogprobs& position) {
    ASSERT_EQ(position.top.size(), vocab_size);
    double sum = 0;
    for (const TokenLogprob& top : position.top) sum += std::exp(top.logprob);
    EXPECT_NEAR(sum, 1, 1e-4);
  };
  for (size_t i = 0; i < 149; ++i) {
    check(prompt[i]);
    EXPECT_EQ(prompt[i].chosen.token, request.prompt_token_ids[i + 1]);
  }
  for (const TokenEvent& event : events) {
    ASSERT_EQ(event.logprobs.size(), 1);
    check(event.logprobs[0]);
    EXPECT_EQ(event.logprobs[0].chosen.rank, 1);
  }
}

TEST_F(EngineTest, CancelFreesTheBlocks) {
  auto stream = Submit(Request(150));
  stream->Cancel();
  EXPECT_EQ(ReadEvents(*stream).back().finish_reason, FinishReason::kCancelled);
  ExpectIdle();
  Submit(Request(150)).reset();  // destroying it cancels too
  ExpectIdle();
  EXPECT_EQ(observer_.finished[FinishReason::kCancelled], 2);
}

TEST_F(EngineTest, FinishEndsOneSequenceAsStopped) {
  EngineRequest request = Request(150);
  request.n = 2;
  auto stream = Submit(request);
  stream->Finish(1);
  std::map<int32_t, FinishReason> reasons;
  for (const TokenEvent& event : ReadEvents(*stream)) {
    if (event.finish_reason.has_value()) {
      reasons[event.index] = *event.finish_reason;
    }
  }
  EXPECT_EQ(reasons[0], FinishReason::kLength);
  EXPECT_EQ(reasons[1], FinishReason::kStop);
  ExpectIdle();
}

TEST_F(EngineTest, DeadlineEndsARunningRequest) {
  EngineRequest request = Request(200);
  request.n = 200;  // far more than the time allows
  request.deadline = absl::Now() + absl::Milliseconds(50);
  for (const TokenEvent& event : ReadEvents(*Submit(request))) {
    if (!event.finish_reason.has_value()) continue;
    EXPECT_EQ(event.finish_reason, FinishReason::kDeadline);
    EXPECT_EQ(event.status.code(), absl::StatusCode::kDeadlineExceeded);
  }
  ExpectIdle();
  EXPECT_EQ(Refusal(request).code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(EngineTest, ASlowReaderPausesOnlyItself) {
  EngineOptions options;
  options.stream_capacity = 4;
  Make(options);
  auto slow = Submit(Request(100));
  EXPECT_EQ(ReadTokens(*Submit(Request(100, {9, 8, 7}))).size(), 100);
  // The slow one has made no more than its stream holds; it alone is left once
  // the engine has noticed the other's end.
  EXPECT_FALSE(engine_->AwaitIdle(absl::Now() + absl::Milliseconds(200)));
  EXPECT_EQ(engine_->Snapshot().num_running, 1);
  EXPECT_LE(observer_.tokens, 100 + 5);
  EXPECT_EQ(ReadTokens(*slow).size(), 100);
  ExpectIdle();
}

TEST_F(EngineTest, FullQueueAndDrainRefuseAtOnce) {
  EngineOptions options;
  options.max_num_seqs = 1;
  options.max_num_queued_requests = 2;
  options.stream_capacity = 1;
  Make(options);
  std::vector<std::unique_ptr<EngineStream>> held;
  absl::Status refusal;
  for (int i = 0; i < 10 && refusal.ok(); ++i) {
    auto stream = engine_->Submit(Request(100));
    refusal = stream.status();
    if (stream.ok()) held.push_back(*std::move(stream));
  }
  EXPECT_EQ(refusal.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_LE(held.size(), 4);
  engine_->StartDrain();
  EXPECT_EQ(Refusal(Request(1)).code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(engine_->AwaitIdle(absl::Now() + absl::Milliseconds(20)));
  engine_->CancelAll();
  ExpectIdle();
}

TEST_F(EngineTest, BadRequestsSayWhatIsWrong) {
  const auto message = [&](EngineRequest request) {
    const absl::Status status = Refusal(std::move(request));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message(Request(1, {})), HasSubstr("prompt"));
  EXPECT_THAT(message(Request(1, {-1})), HasSubstr("prompt"));
  EXPECT_THAT(message(Request(1, {1 << 30})), HasSubstr("prompt"));
  EXPECT_THAT(message(Request(1, std::vector<int32_t>(100000, 1))),
              HasSubstr("context_length_exceeded"));
  EngineRequest many = Request(1);
  many.n = 1000000;
  EXPECT_THAT(message(many), HasSubstr("n:"));
  EXPECT_EQ(observer_.rejected, 5);
}

}  // namespace
}  // namespace shoal
