#include "server/metrics_experts.h"

namespace shoal {
namespace {

constexpr std::array<const char*, 2> kTiers = {"device", "host"};

}  // namespace

ExpertFamilies::ExpertFamilies(FamilyMaker make)
    : experts_(Each(make.Gauges("shoal_experts",
                                "Routed experts by where they are computed, "
                                "over all layers."),
                    "tier", kTiers)),
      bytes_(Each(make.Gauges("shoal_expert_memory_bytes",
                              "Weights of routed experts by memory; an expert "
                              "on the device may have its weights on the host "
                              "too."),
                  "tier", kTiers)),
      choices_(Each(make.Counters("shoal_expert_choices_total",
                                  "Experts chosen by tokens, by where they "
                                  "were computed; streamed: on the device, "
                                  "carried there for the step."),
                    "tier",
                    std::array<const char*, 3>{"device", "host", "streamed"})),
      carried_(Each(make.Counters("shoal_expert_carried_bytes_total",
                                  "Weights copied to the device, to stay or "
                                  "for one step."),
                    "reason",
                    std::array<const char*, 2>{"placement", "streaming"})),
      stall_seconds_(make.OneCounter(
          "shoal_expert_stall_seconds_total",
          "Time that steps spent on experts of the host and on carrying "
          "experts.")),
      imbalance_(Each(make.Gauges("shoal_expert_load_imbalance",
                                  "Spread over mean of the recent load of a "
                                  "layer's experts; quantiles of the layers."),
                      "quantile",
                      std::array<const char*, 3>{"0", "0.5", "1"})) {}

void ExpertFamilies::Update(const ExpertStats& stats) {
  const auto gauge = [](Gauge* gauge, auto value) {
    gauge->Set(static_cast<double>(value));
  };
  const auto count = [](Counter* counter, auto value, auto last) {
    counter->Increment(static_cast<double>(value - last));
  };
  gauge(experts_[0], stats.on_device);
  gauge(experts_[1], stats.on_host);
  gauge(bytes_[0], stats.device_bytes);
  gauge(bytes_[1], stats.host_bytes);
  count(choices_[0], stats.device_choices, last_.device_choices);
  count(choices_[1], stats.host_choices, last_.host_choices);
  count(choices_[2], stats.streamed_choices, last_.streamed_choices);
  count(carried_[0], stats.moved_bytes, last_.moved_bytes);
  count(carried_[1], stats.streamed_bytes, last_.streamed_bytes);
  count(&stall_seconds_, stats.stall_seconds, last_.stall_seconds);
  for (size_t i = 0; i < stats.imbalance.size(); ++i) {
    gauge(imbalance_[i], stats.imbalance[i]);
  }
  last_ = stats;
}

}  // namespace shoal
