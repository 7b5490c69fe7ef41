#include "server/latency_window.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace shoal {
namespace {

constexpr double kError = LatencyWindow::kRelativeError;

// Ratio of a bucket's upper bound to its lower one: with the middle chosen as
// below, both bounds are off by the same relative error.
const double kLogRatio = std::log((1 + kError) / (1 - kError));

}  // namespace

size_t LatencyWindow::BucketOf(double seconds) {
  const double clamped = std::clamp(seconds, kLowest, kHighest);
  const double index = std::floor(std::log(clamped / kLowest) / kLogRatio);
  return std::min(static_cast<size_t>(index), kNumBuckets - 1);
}

double LatencyWindow::MiddleOf(size_t bucket) {
  const double low =
      kLowest * std::exp(kLogRatio * static_cast<double>(bucket));
  return std::min(low * (1 + kError), kHighest);
}

void LatencyWindow::Observe(double seconds, absl::Time now) {
  if (!std::isfinite(seconds)) return;
  const size_t bucket = BucketOf(seconds);
  const int64_t number = absl::ToUnixSeconds(now) / absl::ToInt64Seconds(kSlot);
  absl::MutexLock lock(&mutex_);
  ++totals_.count;
  totals_.seconds += seconds;
  newest_ = std::max(newest_, number);
  Slot& slot = slots_[static_cast<size_t>(newest_) % kNumSlots];
  if (slot.number != newest_) {
    slot.number = newest_;
    slot.counts.fill(0);
  }
  ++slot.counts[bucket];
}

LatencyWindow::Totals LatencyWindow::totals() const {
  absl::MutexLock lock(&mutex_);
  return totals_;
}

std::vector<double> LatencyWindow::Quantiles(std::span<const double> quantiles,
                                             absl::Time now) const {
  std::array<uint64_t, kNumBuckets> sums{};
  uint64_t total = 0;
  {
    absl::MutexLock lock(&mutex_);
    const int64_t number = std::max(
        newest_, absl::ToUnixSeconds(now) / absl::ToInt64Seconds(kSlot));
    const int64_t oldest = number - static_cast<int64_t>(kNumSlots) + 1;
    for (const Slot& slot : slots_) {
      if (slot.number < oldest || slot.number < 0) continue;
      for (size_t i = 0; i < kNumBuckets; ++i) sums[i] += slot.counts[i];
    }
  }
  for (uint64_t count : sums) total += count;
  std::vector<double> answers;
  answers.reserve(quantiles.size());
  for (double quantile : quantiles) {
    if (total == 0) {
      answers.push_back(std::numeric_limits<double>::quiet_NaN());
      continue;
    }
    // Nearest rank: the smallest value with at least this share at or below.
    const uint64_t rank = std::max<uint64_t>(
        1, static_cast<uint64_t>(
               std::ceil(quantile * static_cast<double>(total))));
    uint64_t seen = 0;
    size_t bucket = 0;
    while (seen + sums[bucket] < rank) seen += sums[bucket++];
    answers.push_back(MiddleOf(bucket));
  }
  return answers;
}

}  // namespace shoal
