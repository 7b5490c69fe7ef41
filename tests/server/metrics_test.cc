#include "server/metrics.h"

#include <array>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/drift.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

// The value of the one sample line that starts with `series`; "" if absent.
std::string ValueOf(const std::string& text, const std::string& series) {
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    if (line.rfind(series + " ", 0) == 0) {
      return line.substr(series.size() + 1);
    }
  }
  return "";
}

MetricsOptions Options() {
  return {.model_name = "tiny", .device = "cpu", .cpu_isa = "avx2"};
}

EngineSnapshot Snapshot() {
  EngineSnapshot snapshot;
  snapshot.num_running = 3;
  snapshot.num_waiting = 2;
  snapshot.free_blocks = 75;
  snapshot.total_blocks = 100;
  snapshot.block_size = 16;
  snapshot.cache_bytes = 4096;
  snapshot.weight_bytes = 8192;
  return snapshot;
}

// The labels of vLLM's families, sorted by name as they are printed.
const std::string kModel = "engine=\"0\",model_name=\"tiny\"";

std::string Vllm(const std::string& name) {
  return "vllm:" + name + "{" + kModel + "}";
}

TEST(MetricsTest, GaugesComeFromTheSnapshot) {
  const auto metrics = ServerMetrics::Create(Options(), nullptr);
  metrics->SetSnapshotSource(Snapshot);
  const std::string text = metrics->Render();
  EXPECT_EQ(ValueOf(text, Vllm("num_requests_running")), "3");
  EXPECT_EQ(ValueOf(text, Vllm("num_requests_waiting")), "2");
  EXPECT_EQ(ValueOf(text, Vllm("kv_cache_usage_perc")), "0.25");
  EXPECT_THAT(text, HasSubstr("block_size=\"16\""));
  EXPECT_THAT(text, HasSubstr("num_gpu_blocks=\"100\""));
}

TEST(MetricsTest, FinishedRequestIsCountedOnce) {
  const auto metrics = ServerMetrics::Create(Options(), nullptr);
  metrics->OnFirstToken(0.02);
  metrics->OnInterTokenLatency(0.004);
  metrics->OnFinished({.reason = FinishReason::kLength,
                       .num_prompt_tokens = 7,
                       .num_cached_tokens = 4,
                       .num_completion_tokens = 10,
                       .max_tokens = 5,
                       .n = 2,
                       .queue_seconds = 0.01,
                       .prefill_seconds = 0.01,
                       .decode_seconds = 0.4,
                       .e2e_seconds = 0.42,
                       .ttft_seconds = 0.02});
  const std::string text = metrics->Render();
  EXPECT_EQ(ValueOf(text, Vllm("prompt_tokens_total")), "7");
  EXPECT_EQ(ValueOf(text, Vllm("prompt_tokens_cached_total")), "4");
  EXPECT_EQ(ValueOf(text, "vllm:request_success_total{" + kModel +
                              ",finished_reason=\"length\"}"),
            "1");
  for (const char* name :
       {"time_to_first_token_seconds", "inter_token_latency_seconds",
        "e2e_request_latency_seconds", "request_queue_time_seconds",
        "request_prefill_time_seconds", "request_decode_time_seconds",
        "request_inference_time_seconds", "request_prompt_tokens",
        "request_generation_tokens", "request_params_max_tokens",
        "request_params_n"}) {
    EXPECT_EQ(ValueOf(text, Vllm(std::string(name) + "_count")), "1") << name;
  }
  // Five tokens a sequence have four gaps in 0.4 s.
  EXPECT_EQ(ValueOf(text, Vllm("request_time_per_output_token_seconds_sum")),
            "0.1");
  EXPECT_EQ(ValueOf(text, Vllm("request_max_num_generation_tokens_sum")), "5");
  EXPECT_EQ(ValueOf(text, "shoal_latency_seconds_count{stage=\"e2e\"}"), "1");
  EXPECT_NEAR(
      std::stod(ValueOf(
          text, "shoal_latency_seconds{stage=\"e2e\",quantile=\"0.99\"}")),
      0.42, 0.42 * 0.021);
}

TEST(MetricsTest, StepFeedsBatchAndPrefixFamilies) {
  const auto metrics = ServerMetrics::Create(Options(), nullptr);
  StepStats stats;
  stats.step_seconds = 0.03;
  stats.planning_seconds = 0.001;
  stats.forward_seconds = 0.02;
  stats.sampling_seconds = 0.009;
  stats.num_prefill_tokens = 100;
  stats.num_decode_tokens = 3;
  stats.token_budget = 512;
  stats.num_preempted = 1;
  stats.prefix_query_tokens = 120;
  stats.prefix_hit_tokens = 20;
  metrics->OnStep(stats);
  stats = StepStats();
  stats.num_decode_tokens = 3;
  stats.token_budget = 256;
  metrics->OnStep(stats);
  const std::string text = metrics->Render();
  EXPECT_EQ(ValueOf(text, "shoal_batch_tokens_count{phase=\"prefill\"}"), "1");
  EXPECT_EQ(ValueOf(text, "shoal_batch_tokens_sum{phase=\"decode\"}"), "6");
  EXPECT_EQ(ValueOf(text, "shoal_batch_token_budget"), "256");
  EXPECT_EQ(ValueOf(text, "shoal_step_seconds_sum{phase=\"forward\"}"), "0.02");
  EXPECT_EQ(ValueOf(text, Vllm("iteration_tokens_total_sum")), "106");
  EXPECT_EQ(ValueOf(text, Vllm("num_preemptions_total")), "1");
  EXPECT_EQ(ValueOf(text, Vllm("prefix_cache_queries_total")), "120");
  EXPECT_EQ(ValueOf(text, Vllm("prefix_cache_hits_total")), "20");
}

TEST(MetricsTest, ExpertsHaveFamiliesWhereThereAreAny) {
  const auto metrics = ServerMetrics::Create(Options(), nullptr);
  StepStats stats;
  metrics->OnStep(stats);
  EXPECT_EQ(metrics->Render().find("shoal_expert"), std::string::npos);
  stats.experts.on_device = 3;
  stats.experts.on_host = 5;
  stats.experts.device_bytes = 300;
  stats.experts.host_bytes = 800;
  stats.experts.device_choices = 10;
  stats.experts.host_choices = 4;
  stats.experts.streamed_choices = 2;
  stats.experts.moved_bytes = 100;
  stats.experts.streamed_bytes = 200;
  stats.experts.stall_seconds = 0.5;
  stats.experts.imbalance = {0.25, 0.5, 0.75};
  metrics->OnStep(stats);
  stats.experts.device_choices = 15;
  stats.experts.moved_bytes = 400;
  metrics->OnStep(stats);
  const std::string text = metrics->Render();
  const auto value = [&](const char* name) { return ValueOf(text, name); };
  EXPECT_EQ(value("shoal_experts{tier=\"device\"}"), "3");
  EXPECT_EQ(value("shoal_experts{tier=\"host\"}"), "5");
  EXPECT_EQ(value("shoal_expert_memory_bytes{tier=\"device\"}"), "300");
  EXPECT_EQ(value("shoal_expert_memory_bytes{tier=\"host\"}"), "800");
  EXPECT_EQ(value("shoal_expert_choices_total{tier=\"device\"}"), "15");
  EXPECT_EQ(value("shoal_expert_choices_total{tier=\"host\"}"), "4");
  EXPECT_EQ(value("shoal_expert_choices_total{tier=\"streamed\"}"), "2");
  EXPECT_EQ(value("shoal_expert_carried_bytes_total{reason=\"placement\"}"),
            "400");
  EXPECT_EQ(value("shoal_expert_carried_bytes_total{reason=\"streaming\"}"),
            "200");
  EXPECT_EQ(value("shoal_expert_stall_seconds_total"), "0.5");
  EXPECT_EQ(value("shoal_expert_load_imbalance{quantile=\"0.5\"}"), "0.5");
}

TEST(MetricsTest, ReceivedIsTheSumOfEndedFromManyThreads) {
  const auto metrics = ServerMetrics::Create(Options(), nullptr);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&metrics] {
      for (int k = 0; k < 250; ++k) {
        metrics->OnRequestReceived();
        metrics->OnRequestEnded(static_cast<RequestOutcome>(k % 5));
        if (k % 50 == 0) metrics->Render();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::string text = metrics->Render();
  EXPECT_EQ(ValueOf(text, "shoal_requests_received_total"), "1000");
  for (const char* outcome :
       {"ok", "error", "cancelled", "deadline", "rejected"}) {
    EXPECT_EQ(ValueOf(text, std::string("shoal_requests_ended_total{outcome=") +
                                "\"" + outcome + "\"}"),
              "200");
  }
}

TEST(MetricsTest, MemoryByOwnerIsAtLeastWhatIsResident) {
  MetricsOptions options = Options();
  options.memory_limit_bytes = 1 << 30;
  const auto metrics = ServerMetrics::Create(options, nullptr);
  metrics->SetSnapshotSource(Snapshot);
  const std::string text = metrics->Render();
  double sum = 0;
  for (const char* owner : {"weights", "kv", "workspace", "host"}) {
    sum += std::stod(ValueOf(
        text, std::string("shoal_memory_bytes{device=\"cpu\",owner=\"") +
                  owner + "\"}"));
  }
  const double resident =
      std::stod(ValueOf(text, "process_resident_memory_bytes"));
  EXPECT_GT(resident, 1e5);
  EXPECT_NEAR(sum, resident, 1);
  EXPECT_EQ(ValueOf(text, "shoal_memory_limit_bytes{device=\"cpu\"}"),
            "1073741824");
}

TEST(MetricsTest, TokensReachTheDriftMonitor) {
  DriftMonitor drift({.model_name = "tiny"});
  const auto metrics = ServerMetrics::Create(Options(), &drift);
  metrics->OnTokens(std::array<int32_t, 3>{1, 2, 2});
  const std::string text = metrics->Render();
  EXPECT_EQ(ValueOf(text, Vllm("generation_tokens_total")), "3");
  EXPECT_EQ(ValueOf(text, "shoal_drift_window_tokens"), "3");
  EXPECT_EQ(ValueOf(text, "shoal_drift_kl{signal=\"output_tokens\"}"), "Nan");
}

TEST(MetricsTest, EveryFamilyHasHelpAndLabelsAreEscaped) {
  MetricsOptions options = Options();
  options.model_name = "a\"b\\c\nd";
  const auto metrics = ServerMetrics::Create(options, nullptr);
  metrics->SetSnapshotSource(Snapshot);
  const std::string text = metrics->Render();
  EXPECT_THAT(text, HasSubstr("model_name=\"a\\\"b\\\\c\\nd\""));
  std::istringstream lines(text);
  std::string line;
  std::string helped;
  int families = 0;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string hash;
    std::string kind;
    std::string name;
    std::string more;
    words >> hash >> kind >> name >> more;
    if (hash != "#") continue;
    if (kind == "HELP") {
      EXPECT_NE(more, "") << name;
      helped = name;
    } else {
      EXPECT_EQ(name, helped);
      ++families;
    }
  }
  EXPECT_GE(families, 35);
}

}  // namespace
}  // namespace shoal
