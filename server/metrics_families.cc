#include "server/metrics_families.h"

namespace shoal {
namespace {

// What is not the host's lies in the device's memory.
Series<Gauge, kNumOwners> MemorySeries(prometheus::Family<Gauge>& family,
                                       const std::string& device) {
  Series<Gauge, kNumOwners> series;
  for (size_t owner = 0; owner < kNumOwners; ++owner) {
    series[owner] = &family.Add({{"owner", kOwners[owner]},
                                 {"device", owner == kHost ? "cpu" : device}});
  }
  return series;
}

}  // namespace

SharedFamilies::SharedFamilies(FamilyMaker make, int64_t max_model_len)
    : running(make.OneGauge("vllm:num_requests_running",
                            "Sequences in the running batch.")),
      waiting(make.OneGauge("vllm:num_requests_waiting",
                            "Sequences waiting to be scheduled.")),
      kv_usage(make.OneGauge("vllm:kv_cache_usage_perc",
                             "Share of the cache in use; 1 is all of it.")),
      cache_config(make.Gauges("vllm:cache_config_info",
                               "The cache's configuration, as labels.")),
      prompt_tokens(make.OneCounter("vllm:prompt_tokens_total",
                                    "Prompt tokens of ended requests.")),
      cached_tokens(
          make.OneCounter("vllm:prompt_tokens_cached_total",
                          "Of these, tokens found in the prefix cache.")),
      generation_tokens(
          make.OneCounter("vllm:generation_tokens_total", "Tokens generated.")),
      success(Each(make.Counters("vllm:request_success_total",
                                 "Requests that left the engine, by reason."),
                   "finished_reason", kFinishedReasons)),
      preemptions(make.OneCounter("vllm:num_preemptions_total",
                                  "Sequences preempted for lack of cache.")),
      prefix_queries(
          make.OneCounter("vllm:prefix_cache_queries_total",
                          "Prompt tokens looked up in the prefix cache.")),
      prefix_hits(make.OneCounter("vllm:prefix_cache_hits_total",
                                  "Of these, tokens found.")),
      ttft(make.OneHistogram("vllm:time_to_first_token_seconds",
                             "Submission to first token.",
                             FirstTokenBuckets())),
      itl(make.OneHistogram("vllm:inter_token_latency_seconds",
                            "Between two tokens of a sequence.",
                            TokenTimeBuckets())),
      tpot(make.OneHistogram("vllm:request_time_per_output_token_seconds",
                             "Mean of a request's times between tokens.",
                             TokenTimeBuckets())),
      e2e(make.OneHistogram("vllm:e2e_request_latency_seconds",
                            "Submission to last token.", RequestTimeBuckets())),
      queue(make.OneHistogram("vllm:request_queue_time_seconds",
                              "Submission to first scheduling.",
                              RequestTimeBuckets())),
      prefill(make.OneHistogram("vllm:request_prefill_time_seconds",
                                "First scheduling to first token.",
                                RequestTimeBuckets())),
      decode(make.OneHistogram("vllm:request_decode_time_seconds",
                               "First to last token.", RequestTimeBuckets())),
      inference(make.OneHistogram("vllm:request_inference_time_seconds",
                                  "First scheduling to last token.",
                                  RequestTimeBuckets())),
      request_prompt_tokens(make.OneHistogram(
          "vllm:request_prompt_tokens", "Prompt tokens of a request.",
          OneTwoFiveBuckets(max_model_len))),
      request_generation_tokens(make.OneHistogram(
          "vllm:request_generation_tokens",
          "Generated tokens of a request, over all its sequences.",
          OneTwoFiveBuckets(max_model_len))),
      max_generation_tokens(
          make.OneHistogram("vllm:request_max_num_generation_tokens",
                            "Generated tokens a sequence of a request.",
                            OneTwoFiveBuckets(max_model_len))),
      max_tokens(make.OneHistogram("vllm:request_params_max_tokens",
                                   "The max_tokens of a request.",
                                   OneTwoFiveBuckets(max_model_len))),
      n(make.OneHistogram("vllm:request_params_n", "The n of a request.",
                          {1, 2, 5, 10, 20})),
      iteration_tokens(make.OneHistogram("vllm:iteration_tokens_total",
                                         "Tokens computed in a step.",
                                         IterationBuckets())) {}

OwnFamilies::OwnFamilies(FamilyMaker make, const std::string& device)
    : received(make.OneCounter("shoal_requests_received_total",
                               "Requests of any protocol that arrived.")),
      ended(Each(make.Counters("shoal_requests_ended_total",
                               "Requests that ended, each counted once."),
                 "outcome", kOutcomes)),
      memory(MemorySeries(
          make.Gauges("shoal_memory_bytes",
                      "Memory by owner. On the CPU host is what the process "
                      "occupies beyond the other owners."),
          device)),
      memory_limit(make.Gauges("shoal_memory_limit_bytes",
                               "Memory the process may take.")),
      build_info(make.Gauges("shoal_build_info", "The build, as labels.")),
      batch_tokens(Each(make.Histograms("shoal_batch_tokens",
                                        "Tokens of a phase in a step that "
                                        "had any."),
                        "phase",
                        std::array<const char*, 2>{"prefill", "decode"},
                        Buckets{1, 4, 16, 64, 256, 1024, 4096})),
      token_budget(make.OneGauge("shoal_batch_token_budget",
                                 "Most tokens the last step might hold.")),
      step_seconds(Each(
          make.Histograms("shoal_step_seconds", "Time of a step by phase."),
          "phase",
          std::array<const char*, 3>{"planning", "forward", "sampling"},
          Buckets{.001, .005, .025, .1, .5})),
      drift_kl(make.Gauges("shoal_drift_kl",
                           "Divergence of the window from the baseline in "
                           "nats; NaN when either is missing or too small.")
                   .Add({{"signal", "output_tokens"}})),
      drift_window(make.OneGauge("shoal_drift_window_tokens",
                                 "Tokens in the drift window.")),
      drift_baseline(make.OneGauge("shoal_drift_baseline_tokens",
                                   "Tokens in the drift baseline.")),
      resident(make.OneGauge("process_resident_memory_bytes",
                             "RAM the process occupies.")),
      start_time(make.OneGauge("process_start_time_seconds",
                               "Start of the process since the epoch.")) {}

}  // namespace shoal
