// Routers whose experts are not equally popular. The share of the expert of
// rank k among E is proportional to k^-exponent, except that none can be chosen
// more than once a token; which expert has which rank is random. Held to inputs
// that are normalised and otherwise without structure: real inputs of deeper
// layers, and expert groups, move the shares a little.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "server/synth/random.h"

namespace shoal {

struct RouterShape {
  int64_t num_experts = 0;
  int64_t num_chosen = 0;  // experts a token
  double exponent = 0;     // 0: all alike
};

// Probability by rank that a token chooses the expert: falling, at most 1, in
// all num_chosen. REQUIRES: 0 < num_chosen <= num_experts, exponent >= 0.
std::vector<double> ExpertShares(const RouterShape& shape);

// The value that a standard normal one stays below with probability p.
// REQUIRES: 0 < p < 1.
double NormalQuantile(double p);

// Correction biases that give the shares when a score is `score` (rising) of a
// standard normal logit and bias. Their mean is 0.
std::vector<float> CorrectionBiases(const RouterShape& shape,
                                    const std::function<double(double)>& score,
                                    SynthRandom& random);

// Router rows [num_experts, width] that give the shares without a bias, for
// inputs that have kSharedMean in every channel besides their own part: what
// embeddings of that mean and of deviation kOwnDeviation give.
inline constexpr double kSharedMean = 0.70710678;
inline constexpr double kOwnDeviation = 0.70710678;
std::vector<float> SkewedRouterRows(const RouterShape& shape, int64_t width,
                                    SynthRandom& random);

}  // namespace shoal
