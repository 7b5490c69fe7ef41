#include "server/metrics.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "prometheus/text_serializer.h"
#include "server/drift.h"
#include "server/latency_window.h"
#include "server/metrics_experts.h"
#include "server/metrics_families.h"
#include "server/metrics_process.h"

namespace shoal {
namespace {

size_t FinishedReasonIndex(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return 0;
    case FinishReason::kLength:
      return 1;
    case FinishReason::kCancelled:
    case FinishReason::kDeadline:
      return 2;
    case FinishReason::kError:
      return 3;
  }
  return 3;
}

using Windows = std::array<LatencyWindow, kNumStages>;

// A summary, which the library would compute over every value it keeps.
prometheus::MetricFamily LatencyFamily(const Windows& windows) {
  prometheus::MetricFamily family;
  family.name = "shoal_latency_seconds";
  family.help = "Quantiles of the last minute; NaN when it saw no value.";
  family.type = prometheus::MetricType::Summary;
  const absl::Time now = absl::Now();
  for (size_t stage = 0; stage < kNumStages; ++stage) {
    prometheus::ClientMetric metric;
    metric.label = {{"stage", kStages[stage]}};
    const LatencyWindow::Totals totals = windows[stage].totals();
    metric.summary.sample_count = totals.count;
    metric.summary.sample_sum = totals.seconds;
    const std::vector<double> values =
        windows[stage].Quantiles(kQuantiles, now);
    for (size_t i = 0; i < values.size(); ++i) {
      metric.summary.quantile.push_back({kQuantiles[i], values[i]});
    }
    family.metric.push_back(std::move(metric));
  }
  return family;
}

class ServerMetricsImpl : public ServerMetrics {
 public:
  ServerMetricsImpl(const MetricsOptions& options, DriftMonitor* drift)
      : options_(options),
        drift_(drift),
        shared_(FamilyMaker(registry_, {{"model_name", options.model_name},
                                        {"engine", "0"}}),
                options.max_model_len),
        own_(FamilyMaker(registry_, {}), options.device) {
    own_.build_info
        .Add({{"version", SHOAL_VERSION},
              {"device", options.device},
              {"cpu_isa", options.cpu_isa}})
        .Set(1);
    own_.start_time.Set(ProcessStartSeconds());
    int64_t host_limit = MemoryLimitBytes();
    if (options.memory_limit_bytes > 0) {
      if (OnCpu()) {
        host_limit = options.memory_limit_bytes;
      } else {
        own_.memory_limit.Add({{"device", options.device}})
            .Set(static_cast<double>(options.memory_limit_bytes));
      }
    }
    if (host_limit > 0) {
      own_.memory_limit.Add({{"device", "cpu"}})
          .Set(static_cast<double>(host_limit));
    }
  }

  void OnRequestReceived() override { own_.received.Increment(); }
  void OnRequestEnded(RequestOutcome outcome) override {
    own_.ended[static_cast<size_t>(outcome)]->Increment();
  }

  // Queued requests are read from the snapshot and refused ones counted where
  // they end, since the server refuses some that the engine never sees.
  void OnAccepted() override {}
  void OnRejected() override {}

  void OnStep(const StepStats& stats) override {
    const int32_t tokens = stats.num_prefill_tokens + stats.num_decode_tokens;
    if (tokens > 0) shared_.iteration_tokens.Observe(tokens);
    if (stats.num_prefill_tokens > 0) {
      own_.batch_tokens[0]->Observe(stats.num_prefill_tokens);
    }
    if (stats.num_decode_tokens > 0) {
      own_.batch_tokens[1]->Observe(stats.num_decode_tokens);
    }
    shared_.preemptions.Increment(stats.num_preempted);
    shared_.prefix_queries.Increment(
        static_cast<double>(stats.prefix_query_tokens));
    shared_.prefix_hits.Increment(static_cast<double>(stats.prefix_hit_tokens));
    own_.token_budget.Set(stats.token_budget);
    own_.step_seconds[0]->Observe(stats.planning_seconds);
    own_.step_seconds[1]->Observe(stats.forward_seconds);
    own_.step_seconds[2]->Observe(stats.sampling_seconds);
    windows_[kStep].Observe(stats.step_seconds, absl::Now());
    if (stats.experts.on_device + stats.experts.on_host == 0) return;
    if (!experts_.has_value()) experts_.emplace(FamilyMaker(registry_, {}));
    experts_->Update(stats.experts);
  }

  void OnFirstToken(double ttft_seconds) override {
    shared_.ttft.Observe(ttft_seconds);
    windows_[kTtft].Observe(ttft_seconds, absl::Now());
  }

  void OnInterTokenLatency(double seconds) override {
    shared_.itl.Observe(seconds);
    windows_[kItl].Observe(seconds, absl::Now());
  }

  void OnTokens(std::span<const int32_t> token_ids) override {
    shared_.generation_tokens.Increment(static_cast<double>(token_ids.size()));
    if (drift_ != nullptr) drift_->Add(token_ids);
  }

  void OnFinished(const RequestStats& stats) override {
    shared_.success[FinishedReasonIndex(stats.reason)]->Increment();
    shared_.prompt_tokens.Increment(stats.num_prompt_tokens);
    shared_.cached_tokens.Increment(stats.num_cached_tokens);
    shared_.e2e.Observe(stats.e2e_seconds);
    shared_.queue.Observe(stats.queue_seconds);
    shared_.prefill.Observe(stats.prefill_seconds);
    shared_.decode.Observe(stats.decode_seconds);
    shared_.inference.Observe(stats.prefill_seconds + stats.decode_seconds);
    shared_.request_prompt_tokens.Observe(stats.num_prompt_tokens);
    shared_.request_generation_tokens.Observe(stats.num_completion_tokens);
    const double tokens_a_sequence =
        static_cast<double>(stats.num_completion_tokens) / std::max(stats.n, 1);
    shared_.max_generation_tokens.Observe(tokens_a_sequence);
    if (tokens_a_sequence > 1) {
      shared_.tpot.Observe(stats.decode_seconds / (tokens_a_sequence - 1));
    }
    shared_.max_tokens.Observe(stats.max_tokens);
    shared_.n.Observe(stats.n);
    const absl::Time now = absl::Now();
    windows_[kE2e].Observe(stats.e2e_seconds, now);
    windows_[kQueue].Observe(stats.queue_seconds, now);
  }

  void SetSnapshotSource(std::function<EngineSnapshot()> source) override {
    absl::MutexLock lock(&mutex_);
    source_ = std::move(source);
  }

  std::string Render() override {
    absl::MutexLock lock(&mutex_);
    EngineSnapshot snapshot;
    if (source_) snapshot = source_();
    RefreshEngine(snapshot);
    RefreshMemory(snapshot);
    RefreshDrift();
    std::vector<prometheus::MetricFamily> families = registry_.Collect();
    families.push_back(LatencyFamily(windows_));
    return prometheus::TextSerializer().Serialize(families);
  }

 private:
  bool OnCpu() const { return options_.device == "cpu"; }

  void RefreshEngine(const EngineSnapshot& snapshot)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    shared_.running.Set(snapshot.num_running);
    shared_.waiting.Set(snapshot.num_waiting);
    if (snapshot.total_blocks <= 0) return;
    const int32_t used = snapshot.total_blocks - snapshot.free_blocks;
    shared_.kv_usage.Set(static_cast<double>(used) / snapshot.total_blocks);
    if (has_cache_config_) return;
    has_cache_config_ = true;
    shared_.cache_config
        .Add({{"block_size", absl::StrCat(snapshot.block_size)},
              {"num_gpu_blocks", absl::StrCat(snapshot.total_blocks)},
              {"cache_bytes", absl::StrCat(snapshot.cache_bytes)}})
        .Set(1);
  }

  void RefreshMemory(const EngineSnapshot& snapshot)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const int64_t owned =
        snapshot.weight_bytes + snapshot.cache_bytes + snapshot.workspace_bytes;
    const int64_t resident = ResidentBytes();
    // Pages promised but not yet touched count: the sum over owners is what the
    // process will need, never less than what it occupies.
    const int64_t host =
        OnCpu() ? std::max<int64_t>(resident - owned, 0) : resident;
    own_.memory[kWeights]->Set(static_cast<double>(snapshot.weight_bytes));
    own_.memory[kKv]->Set(static_cast<double>(snapshot.cache_bytes));
    own_.memory[kWorkspace]->Set(static_cast<double>(snapshot.workspace_bytes));
    own_.memory[kHost]->Set(static_cast<double>(host));
    own_.resident.Set(static_cast<double>(resident));
  }

  void RefreshDrift() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    DriftReading reading{.kl = std::numeric_limits<double>::quiet_NaN()};
    if (drift_ != nullptr) reading = drift_->Read();
    own_.drift_kl.Set(reading.kl);
    own_.drift_window.Set(static_cast<double>(reading.window_tokens));
    own_.drift_baseline.Set(static_cast<double>(reading.baseline_tokens));
  }

  const MetricsOptions options_;
  DriftMonitor* const drift_;
  prometheus::Registry registry_;
  SharedFamilies shared_;
  OwnFamilies own_;
  std::optional<ExpertFamilies> experts_;  // once a model has any
  Windows windows_;

  absl::Mutex mutex_;  // one scrape at a time
  std::function<EngineSnapshot()> source_ ABSL_GUARDED_BY(mutex_);
  bool has_cache_config_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

std::unique_ptr<ServerMetrics> ServerMetrics::Create(
    const MetricsOptions& options, DriftMonitor* drift) {
  return std::make_unique<ServerMetricsImpl>(options, drift);
}

}  // namespace shoal
