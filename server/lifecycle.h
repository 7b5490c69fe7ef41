// Lifecycle is the one truth about whether the server is alive, ready or
// draining; health checks of every protocol read it, and listeners hear of
// changes at once. Thread safe.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace shoal {

class Lifecycle {
 public:
  enum class State { kStarting, kReady, kDraining, kFailed };

  State state() const;
  bool ready() const { return state() == State::kReady; }
  // False only when nothing but a restart helps.
  bool alive() const { return state() != State::kFailed; }

  // Moves on and calls every listener with the new state before it returns.
  // kFailed is final; kDraining never goes back to kReady.
  void Set(State state);
  void AddListener(std::function<void(State)> listener);

 private:
  mutable absl::Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kStarting;
  std::vector<std::function<void(State)>> listeners_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace shoal
