// Which routed experts have a copy on the device, and which cold one is better
// carried there for a step than computed on the host: pure functions of load,
// sizes and measured speeds.
//
// Experts are numbered layer by layer: layer · num_experts + expert.
// Load is in choices (a token that chose the expert), of any weighting.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace shoal {

enum class PlacementMode : uint8_t {
  kStatic,     // the first experts of every layer, for good
  kFrequency,  // those chosen most since the start
  kDynamic     // those chosen most of late
};

struct ExpertSizes {
  std::vector<int64_t> layer_bytes;  // of one expert of each layer
  int64_t num_experts = 0;           // of a layer

  int64_t count() const {
    return static_cast<int64_t>(layer_bytes.size()) * num_experts;
  }
  int64_t bytes(int64_t expert) const {
    return layer_bytes[expert / num_experts];
  }
  int64_t total_bytes() const;
};

// True: on the device. [sizes.count()]
using Residency = std::vector<bool>;

// As many of every layer as `budget` bytes hold, or one more of the first
// layers; lower ids first.
Residency UniformPlacement(const ExpertSizes& sizes, int64_t budget);

struct ExpertMove {
  int64_t expert = 0;
  bool to_device = false;  // false: its copy there is given up

  bool operator==(const ExpertMove&) const = default;
};

struct MoveLimits {
  int64_t budget = 0;     // bytes on the device after the moves
  int64_t max_bytes = 0;  // carried to the device; one expert always may
  // Copies are given up only for an expert whose load is more than
  // 1 + hysteresis times that of as many of their bytes, and by more than
  // `min_choices`: what is moved for noise is moved for nothing.
  double hysteresis = 0.25;
  double min_choices = 4;
};

// The moves that bring the most load to the device, in the order in which they
// are to be made: room first, then the expert it is for. Every prefix that ends
// with a move to the device keeps the budget.
std::vector<ExpertMove> PlanMoves(const ExpertSizes& sizes,
                                  const Residency& residency,
                                  std::span<const float> load,
                                  const MoveLimits& limits);

// What the machine does in a second; measured at start.
struct TierSpeeds {
  double host_bytes = 0;  // of weights read by the host's experts
  double host_macs = 0;   // multiply-adds of many tokens
  double link_bytes = 0;  // from the host's memory to the device's
};

// Seconds that the host takes for an expert of `bytes` and `weights` values
// chosen by `tokens` tokens: the memory's limit or the arithmetic's.
double HostSeconds(const TierSpeeds& speeds, int64_t bytes, int64_t weights,
                   int64_t tokens);
// Whether carrying the expert to the device, where the arithmetic costs next to
// nothing beside it, takes less than that.
bool IsStreamed(const TierSpeeds& speeds, int64_t bytes, int64_t weights,
                int64_t tokens);

// Of `num_choices` that a step makes in a layer, those of one expert that the
// device takes where the host has a copy to take the others: `factor` times an
// even share, at least one. A factor of 0: no limit.
int64_t ExpertCapacity(double factor, int64_t num_choices, int64_t num_experts);

// σ/μ of a layer's load over its experts: 0 if all are chosen alike. 0 for a
// load of nothing.
double Imbalance(std::span<const float> load);

}  // namespace shoal
