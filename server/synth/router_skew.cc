#include "server/synth/router_skew.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace shoal {
namespace {

// Shares this near to 0 or 1 would need unbounded biases.
constexpr double kLeastShare = 1e-6;

// By expert: the logit above which it has to be chosen.
std::vector<double> Thresholds(const RouterShape& shape, SynthRandom& random) {
  std::vector<double> thresholds;
  for (const double share : ExpertShares(shape)) {
    const double p = std::clamp(1 - share, kLeastShare, 1 - kLeastShare);
    thresholds.push_back(NormalQuantile(p));
  }
  for (int64_t i = shape.num_experts - 1; i > 0; --i) {
    std::swap(thresholds[i], thresholds[random.Below(i + 1)]);
  }
  return thresholds;
}

}  // namespace

std::vector<double> ExpertShares(const RouterShape& shape) {
  const int64_t experts = shape.num_experts;
  std::vector<double> shares(experts);
  std::vector<double> sums(experts + 1);  // of a rank and all behind it
  for (int64_t k = experts - 1; k >= 0; --k) {
    shares[k] = std::pow(static_cast<double>(k + 1), -shape.exponent);
    sums[k] = sums[k + 1] + shares[k];
  }
  // Ranks at the front are cut as long as what is left to give asks for more
  // than 1 of them; the others share it in proportion.
  auto left = static_cast<double>(shape.num_chosen);
  int64_t k = 0;
  for (; k < experts && shares[k] * left > sums[k]; ++k, left -= 1) {
    shares[k] = 1;
  }
  const double factor = left / sums[k];
  for (; k < experts; ++k) shares[k] *= factor;
  return shares;
}

double NormalQuantile(double p) {
  double low = -10, high = 10;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    const double below = 0.5 * std::erfc(-middle * std::sqrt(0.5));
    (below < p ? low : high) = middle;
  }
  return low;
}

std::vector<float> CorrectionBiases(const RouterShape& shape,
                                    const std::function<double(double)>& score,
                                    SynthRandom& random) {
  std::vector<double> biases;
  double mean = 0;
  for (const double threshold : Thresholds(shape, random)) {
    biases.push_back(-score(threshold));
    mean += biases.back() / static_cast<double>(shape.num_experts);
  }
  std::vector<float> centred;
  for (const double bias : biases) {
    centred.push_back(static_cast<float>(bias - mean));
  }
  return centred;
}

std::vector<float> SkewedRouterRows(const RouterShape& shape, int64_t width,
                                    SynthRandom& random) {
  const std::vector<double> thresholds = Thresholds(shape, random);
  const auto scale = static_cast<float>(1 / std::sqrt(width));
  std::vector<float> rows;
  rows.reserve(shape.num_experts * width);
  for (const double threshold : thresholds) {
    const size_t first = rows.size();
    double mean = 0;
    for (int64_t i = 0; i < width; ++i) {
      rows.push_back(scale * random.Normal());
      mean += rows.back() / static_cast<double>(width);
    }
    // A row sees the shared direction through its mean alone: its own is taken
    // out, and the expert's offset, in units of the deviation that the inputs'
    // own part gives the logits, put in its place.
    const double offset =
        -threshold * kOwnDeviation / (kSharedMean * static_cast<double>(width));
    for (size_t i = first; i < rows.size(); ++i) {
      rows[i] += static_cast<float>(offset - mean);
    }
  }
  return rows;
}

}  // namespace shoal
