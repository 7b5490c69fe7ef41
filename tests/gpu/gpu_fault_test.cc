// What becomes of requests when the GPU has no memory, and when it fails under
// a step. The failure is real and ends the process's use of the device: it
// comes last.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "engine/engine.h"
#include "gmock/gmock.h"
#include "kernels/cuda/cuda_table.h"
#include "tests/engine/golden_model.h"
#include "tests/engine/token_reader.h"

namespace shoal {
namespace {

using testing::HasSubstr;

// Lets an op write to an address that is none, in the step after `steps`.
class FailingDecoder : public Decoder {
 public:
  FailingDecoder(std::unique_ptr<Decoder> inner, KernelTable& kernels,
                 int steps)
      : inner_(std::move(inner)), kernels_(kernels), steps_left_(steps) {}

  const ModelConfig& config() const override { return inner_->config(); }
  const CacheLayout& cache_layout() const override {
    return inner_->cache_layout();
  }
  int64_t weight_bytes() const override { return inner_->weight_bytes(); }
  int64_t workspace_bytes() const override { return inner_->workspace_bytes(); }
  bool can_run_ahead() const override { return inner_->can_run_ahead(); }
  absl::Status Start(const StepBatch& batch, PagedCache& cache) override {
    if (steps_left_-- == 0) {
      kernels_.Zero(reinterpret_cast<float*>(uintptr_t{4096}), 1);
    }
    return inner_->Start(batch, cache);
  }
  absl::Status Draw(int32_t count, const TokenDraw* draws) override {
    return inner_->Draw(count, draws);
  }
  absl::Status Finish(std::vector<int32_t>* tokens) override {
    return inner_->Finish(tokens);
  }
  absl::Status Logits(int32_t first, int32_t count, float* out) override {
    return inner_->Logits(first, count, out);
  }
  const float* hidden_states() const override {
    return inner_->hidden_states();
  }
  std::span<const uint64_t> expert_load(int layer) const override {
    return inner_->expert_load(layer);
  }
  ExpertStats expert_stats() const override { return inner_->expert_stats(); }

 private:
  const std::unique_ptr<Decoder> inner_;
  KernelTable& kernels_;
  int steps_left_;
};

class GpuFaultTest : public testing::Test {
 protected:
  void SetUp() override {
    auto kernels = MakeCudaKernelTable();
    ASSERT_TRUE(kernels.ok()) << kernels.status();
    model_ =
        LoadModel(GoldenPath("deepseek_v2-lite"), *std::move(kernels),
                  Precision::kExact, DType::kF32, /*max_tokens_per_step=*/32);
  }

  LoadedModel model_;
};

TEST_F(GpuFaultTest, ATableHasNoMoreThanTheDevice) {
  const auto buffer = model_.kernels->Allocate(int64_t{1} << 50);
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(buffer.status().message()), HasSubstr("are free"));
  EXPECT_TRUE(model_.kernels->Synchronize().ok());
}

TEST_F(GpuFaultTest, ACacheThatDoesNotFitIsAnErrorAtStart) {
  EngineOptions options;
  options.max_num_seqs = 1 << 20;
  options.max_model_len = 256;
  options.kv_cache_bytes = int64_t{1} << 50;
  options.max_num_batched_tokens = 32;
  const auto engine =
      MakeEngine(std::move(model_.decoder), options, *model_.kernels, nullptr);
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kResourceExhausted)
      << engine.status();
  EXPECT_TRUE(model_.kernels->Synchronize().ok());
}

TEST_F(GpuFaultTest, TheLastFaultEndsEveryStreamWithAnError) {
  EngineOptions options;
  options.max_num_batched_tokens = 32;
  options.max_num_seqs = 2;
  options.kv_cache_bytes = 1 << 22;
  auto engine = MakeEngine(std::make_unique<FailingDecoder>(
                               std::move(model_.decoder), *model_.kernels, 5),
                           options, *model_.kernels, nullptr);
  ASSERT_TRUE(engine.ok()) << engine.status();
  std::vector<std::unique_ptr<EngineStream>> streams;
  for (int i = 0; i < 5; ++i) {
    auto stream = (*engine)->Submit(GreedyRequest({1, 2, 3, 4, 5}, 100));
    ASSERT_TRUE(stream.ok()) << stream.status();
    streams.push_back(*std::move(stream));
  }
  absl::Time failed;
  for (const auto& stream : streams) {
    const TokenEvent last = ReadEvents(*stream).back();
    EXPECT_EQ(last.finish_reason, FinishReason::kError);
    EXPECT_EQ(last.status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(last.status.message()), HasSubstr("cuda"));
    if (failed == absl::Time()) failed = absl::Now();
  }
  EXPECT_LT(absl::Now() - failed, absl::Seconds(1));
  while ((*engine)->Snapshot().health.ok())
    absl::SleepFor(absl::Milliseconds(1));
}

}  // namespace
}  // namespace shoal
