// The largest sizes a model may claim. Far above any published model, and small
// enough that products of two of them stay below 2^63 and that a damaged number
// does not turn into an allocation.
#pragma once

#include <cstdint>

namespace shoal {

inline constexpr int64_t kMaxVocabSize = 1 << 24;
inline constexpr int64_t kMaxHiddenSize = 1 << 20;
inline constexpr int64_t kMaxIntermediateSize = 1 << 24;
inline constexpr int64_t kMaxLayers = 1 << 12;
inline constexpr int64_t kMaxHeads = 1 << 16;
inline constexpr int64_t kMaxHeadDim = 1 << 14;
inline constexpr int64_t kMaxPositions = 1 << 24;
inline constexpr int64_t kMaxExperts = 1 << 14;
// Experts of a layer times layers.
inline constexpr int64_t kMaxExpertsInAll = 1 << 17;
inline constexpr double kMinNormEps = 1e-12;
inline constexpr double kMaxNormEps = 0.1;
inline constexpr double kMaxRopeTheta = 1e12;
inline constexpr double kMaxRopeFactor = 1e4;

}  // namespace shoal
