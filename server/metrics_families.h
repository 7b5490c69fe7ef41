// The metric families, made once, with handles for updates that cost an atomic.
// A family's handles live as long as the registry it was made in.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/metrics_buckets.h"

namespace shoal {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;

// Makes families; their handles live as long as the registry.
class FamilyMaker {
 public:
  FamilyMaker(prometheus::Registry& registry, Labels constant)
      : registry_(registry), constant_(std::move(constant)) {}

  prometheus::Family<Counter>& Counters(const char* name, const char* help) {
    return prometheus::BuildCounter()
        .Name(name)
        .Help(help)
        .Labels(constant_)
        .Register(registry_);
  }
  prometheus::Family<Gauge>& Gauges(const char* name, const char* help) {
    return prometheus::BuildGauge()
        .Name(name)
        .Help(help)
        .Labels(constant_)
        .Register(registry_);
  }
  prometheus::Family<Histogram>& Histograms(const char* name,
                                            const char* help) {
    return prometheus::BuildHistogram()
        .Name(name)
        .Help(help)
        .Labels(constant_)
        .Register(registry_);
  }
  Counter& OneCounter(const char* name, const char* help) {
    return Counters(name, help).Add({});
  }
  Gauge& OneGauge(const char* name, const char* help) {
    return Gauges(name, help).Add({});
  }
  Histogram& OneHistogram(const char* name, const char* help,
                          const Buckets& buckets) {
    return Histograms(name, help).Add({}, buckets);
  }

 private:
  prometheus::Registry& registry_;
  const Labels constant_;
};

// The values of a label, each with its series.
template <typename T, size_t N>
using Series = std::array<T*, N>;

// One series for each value of a label, so that all exist from the start and a
// rate over the first event is not lost.
template <typename T, size_t N, typename... Args>
Series<T, N> Each(prometheus::Family<T>& family, const char* label,
                  const std::array<const char*, N>& values,
                  const Args&... args) {
  Series<T, N> series;
  for (size_t i = 0; i < N; ++i) {
    series[i] = &family.Add({{label, values[i]}}, args...);
  }
  return series;
}

// vLLM's words for how a request ended; it knows no deadlines.
inline constexpr std::array<const char*, 4> kFinishedReasons = {
    "stop", "length", "abort", "error"};
// By RequestOutcome.
inline constexpr std::array<const char*, 5> kOutcomes = {
    "ok", "error", "cancelled", "deadline", "rejected"};
// The stages of shoal_latency_seconds, and the quantiles of each.
enum Stage { kTtft, kItl, kE2e, kQueue, kStep, kNumStages };
inline constexpr std::array<const char*, kNumStages> kStages = {
    "ttft", "itl", "e2e", "queue", "step"};
inline constexpr std::array<double, 3> kQuantiles = {0.5, 0.9, 0.99};
// Who owns memory.
enum Owner { kWeights, kKv, kWorkspace, kHost, kNumOwners };
inline constexpr std::array<const char*, kNumOwners> kOwners = {
    "weights", "kv", "workspace", "host"};

// The families that vLLM has, too.
struct SharedFamilies {
  SharedFamilies(FamilyMaker make, int64_t max_model_len);

  Gauge& running;
  Gauge& waiting;
  Gauge& kv_usage;
  prometheus::Family<Gauge>& cache_config;
  Counter& prompt_tokens;
  Counter& cached_tokens;
  Counter& generation_tokens;
  Series<Counter, 4> success;  // by kFinishedReasons
  Counter& preemptions;
  Counter& prefix_queries;
  Counter& prefix_hits;
  Histogram& ttft;
  Histogram& itl;
  Histogram& tpot;
  Histogram& e2e;
  Histogram& queue;
  Histogram& prefill;
  Histogram& decode;
  Histogram& inference;
  Histogram& request_prompt_tokens;
  Histogram& request_generation_tokens;
  Histogram& max_generation_tokens;
  Histogram& max_tokens;
  Histogram& n;
  Histogram& iteration_tokens;
};

// Families of our own.
struct OwnFamilies {
  // `device` labels what lies in its memory.
  OwnFamilies(FamilyMaker make, const std::string& device);

  Counter& received;
  Series<Counter, 5> ended;  // by kOutcomes
  Series<Gauge, kNumOwners> memory;
  prometheus::Family<Gauge>& memory_limit;  // one series a device, once known
  prometheus::Family<Gauge>& build_info;
  Series<Histogram, 2> batch_tokens;  // prefill, decode
  Gauge& token_budget;
  Series<Histogram, 3> step_seconds;  // planning, forward, sampling
  Gauge& drift_kl;
  Gauge& drift_window;
  Gauge& drift_baseline;
  Gauge& resident;
  Gauge& start_time;
};

}  // namespace shoal
