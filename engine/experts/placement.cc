#include "engine/experts/placement.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace shoal {

int64_t ExpertSizes::total_bytes() const {
  return num_experts *
         std::accumulate(layer_bytes.begin(), layer_bytes.end(), int64_t{0});
}

Residency UniformPlacement(const ExpertSizes& sizes, int64_t budget) {
  Residency residency(sizes.count());
  const auto layers = static_cast<int64_t>(sizes.layer_bytes.size());
  for (int64_t e = 0; e < sizes.num_experts; ++e) {
    for (int64_t layer = 0; layer < layers; ++layer) {
      if (sizes.layer_bytes[layer] > budget) continue;
      budget -= sizes.layer_bytes[layer];
      residency[layer * sizes.num_experts + e] = true;
    }
  }
  return residency;
}

std::vector<ExpertMove> PlanMoves(const ExpertSizes& sizes,
                                  const Residency& residency,
                                  std::span<const float> load,
                                  const MoveLimits& limits) {
  const auto density = [&](int64_t e) {
    return static_cast<double>(load[e]) / static_cast<double>(sizes.bytes(e));
  };
  std::vector<int64_t> cold;  // that somebody chose; hottest first
  std::vector<int64_t> hot;   // coldest first
  int64_t room = limits.budget;
  for (int64_t e = 0; e < sizes.count(); ++e) {
    if (residency[e]) {
      hot.push_back(e);
      room -= sizes.bytes(e);
    } else if (load[e] > 0) {
      cold.push_back(e);
    }
  }
  std::stable_sort(cold.begin(), cold.end(), [&](int64_t a, int64_t b) {
    return density(a) > density(b);
  });
  std::stable_sort(hot.begin(), hot.end(), [&](int64_t a, int64_t b) {
    return density(a) < density(b);
  });

  std::vector<ExpertMove> moves;
  int64_t moved = 0;
  size_t next = 0;  // of hot
  for (const int64_t e : cold) {
    const int64_t bytes = sizes.bytes(e);
    if (moved > 0 && moved + bytes > limits.max_bytes) break;
    size_t last = next;
    int64_t found = room;
    while (found < bytes && last < hot.size()) {
      const int64_t victim = hot[last];
      const double given_up =  // for as many bytes
          density(victim) * static_cast<double>(bytes);
      const bool worth = load[e] > (1 + limits.hysteresis) * given_up &&
                         load[e] > given_up + limits.min_choices;
      if (!worth) break;
      found += sizes.bytes(victim);
      ++last;
    }
    if (found < bytes) continue;  // a smaller one may still fit
    for (; next < last; ++next) moves.push_back({hot[next], false});
    moves.push_back({e, true});
    room = found - bytes;
    moved += bytes;
  }
  return moves;
}

double HostSeconds(const TierSpeeds& speeds, int64_t bytes, int64_t weights,
                   int64_t tokens) {
  return std::max(static_cast<double>(bytes) / speeds.host_bytes,
                  static_cast<double>(weights) * static_cast<double>(tokens) /
                      speeds.host_macs);
}

bool IsStreamed(const TierSpeeds& speeds, int64_t bytes, int64_t weights,
                int64_t tokens) {
  return static_cast<double>(bytes) / speeds.link_bytes <
         HostSeconds(speeds, bytes, weights, tokens);
}

int64_t ExpertCapacity(double factor, int64_t num_choices,
                       int64_t num_experts) {
  if (factor <= 0) return std::numeric_limits<int64_t>::max();
  const double share =
      static_cast<double>(num_choices) / static_cast<double>(num_experts);
  // Factors are small numbers; a step has at most some millions of choices.
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(factor * share)));
}

double Imbalance(std::span<const float> load) {
  if (load.empty()) return 0;
  const auto n = static_cast<double>(load.size());
  const double mean = std::accumulate(load.begin(), load.end(), 0.0) / n;
  if (mean <= 0) return 0;
  double squares = 0;
  for (const float value : load) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / n) / mean;
}

}  // namespace shoal
