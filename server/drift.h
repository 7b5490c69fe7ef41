// DriftMonitor tells how far the tokens a model puts out now lie from those it
// put out when a baseline was recorded: the Kullback-Leibler divergence of a
// sliding window from the baseline, in nats.
//
//   D(P || Q) = Σ over bins b of P(b) · ln(P(b) / Q(b))
//   P(b) = (window count in b + α) / (n + α·K),  Q(b) likewise with m tokens
//
// n and m are the token counts of window and baseline, α = kSmoothing keeps Q
// above 0. The K bins: one for each token that the baseline saw often enough
// that kMinExpected of it are to be expected in window and baseline alike, and
// one for all others, those never seen before included. Text has many tokens
// that occur once or twice; with a bin each, two samples of one distribution
// would differ more than two distributions do. The price: a change of the mix
// among rare tokens that keeps their share is not seen.
//
// Bias: two samples of one distribution do not give 0 but, to second order,
// (K - 1) / 2 · (1/n + 1/m). It is subtracted and the result clamped at 0.
//
// Memory: the window's ring (4 bytes a token) and one count a distinct token of
// the window and of the baseline. Thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace shoal {

struct DriftOptions {
  std::string model_name;             // a baseline of another model is refused
  size_t window_tokens = 65536;       // tokens kept; at least 1
  size_t min_window_tokens = 4096;    // fewer: no value
  size_t min_baseline_tokens = 4096;  // fewer: RecordBaseline and Load fail
};

struct DriftReading {
  double kl = 0;  // nats; NaN without a baseline or with too small a window
  int64_t window_tokens = 0;
  int64_t baseline_tokens = 0;
};

class DriftMonitor {
 public:
  static constexpr double kSmoothing = 0.5;
  static constexpr double kMinExpected = 5;

  explicit DriftMonitor(DriftOptions options);

  void Add(std::span<const int32_t> token_ids) ABSL_LOCKS_EXCLUDED(mutex_);

  // Takes time linear in the distinct tokens.
  DriftReading Read() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Makes the current window the baseline and writes it to `path`, whole or not
  // at all, surviving a power cut. FailedPrecondition: too few tokens.
  // Internal: the file cannot be written; the old baseline stays in both cases.
  absl::Status RecordBaseline(const std::string& path)
      ABSL_LOCKS_EXCLUDED(file_mutex_, mutex_);

  // NotFound: no such file. FailedPrecondition: of another model, or of too few
  // tokens. InvalidArgument: not a baseline of a version known here. The old
  // baseline stays on any error.
  absl::Status LoadBaseline(const std::string& path)
      ABSL_LOCKS_EXCLUDED(file_mutex_, mutex_);

 private:
  using Counts = absl::flat_hash_map<int32_t, int64_t>;

  absl::Status CheckEnough(int64_t tokens) const;
  void Adopt(Counts counts) ABSL_LOCKS_EXCLUDED(mutex_);

  const DriftOptions options_;
  absl::Mutex file_mutex_;  // taken before mutex_
  mutable absl::Mutex mutex_;
  std::vector<int32_t> ring_ ABSL_GUARDED_BY(mutex_);
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;  // the oldest once the ring is full
  Counts window_ ABSL_GUARDED_BY(mutex_);
  Counts baseline_ ABSL_GUARDED_BY(mutex_);
  int64_t baseline_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace shoal
