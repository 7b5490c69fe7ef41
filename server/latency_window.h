// LatencyWindow answers the quantiles of what was observed in the last minute,
// so that a scrape, an alert and the batch controller read the same P99 without
// a query engine. Counts lie in logarithmic buckets, one set per slot of time;
// the oldest slot is dropped whole.
//
// Error: for values between kLowest and kHighest seconds the answer lies within
// a factor (1 ± kRelativeError) of the exact nearest-rank quantile of the
// window; smaller values count as kLowest, larger ones as kHighest.
// Window: between kWindow - kSlot and kWindow long, ending now.
// Memory: constant, about 25 KiB. Thread safe; Observe is a short lock.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace shoal {

class LatencyWindow {
 public:
  struct Totals {
    uint64_t count = 0;
    double seconds = 0;
  };

  static constexpr absl::Duration kWindow = absl::Seconds(60);
  static constexpr absl::Duration kSlot = absl::Seconds(5);
  static constexpr double kRelativeError = 0.02;
  static constexpr double kLowest = 1e-5;  // seconds
  static constexpr double kHighest = 1e4;

  // What is not finite is ignored. `now` must come from one clock that does not
  // go backwards; a value older than the window's slot counts to the newest
  // one.
  void Observe(double seconds, absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);

  // Of everything since the start.
  Totals totals() const ABSL_LOCKS_EXCLUDED(mutex_);

  // One answer in seconds for each of `quantiles`, which lie in [0, 1]; NaN
  // where the window is empty.
  std::vector<double> Quantiles(std::span<const double> quantiles,
                                absl::Time now) const
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  static constexpr size_t kNumSlots = 12;
  // ceil(log(kHighest / kLowest) / log((1 + e) / (1 - e))) + 1
  static constexpr size_t kNumBuckets = 520;

  static size_t BucketOf(double seconds);
  static double MiddleOf(size_t bucket);

  struct Slot {
    int64_t number = -1;  // time since the epoch in slots
    std::array<uint32_t, kNumBuckets> counts{};
  };

  mutable absl::Mutex mutex_;
  std::array<Slot, kNumSlots> slots_ ABSL_GUARDED_BY(mutex_);
  int64_t newest_ ABSL_GUARDED_BY(mutex_) = -1;
  Totals totals_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace shoal
