#include "server/lifecycle.h"

#include <utility>

namespace shoal {

Lifecycle::State Lifecycle::state() const {
  absl::MutexLock lock(&mutex_);
  return state_;
}

void Lifecycle::Set(State state) {
  std::vector<std::function<void(State)>> listeners;
  {
    absl::MutexLock lock(&mutex_);
    const bool back = state_ == State::kDraining && state != State::kFailed;
    if (state_ == state || state_ == State::kFailed || back) return;
    state_ = state;
    listeners = listeners_;
  }
  // Without the mutex: a listener may ask for the state.
  for (const auto& listener : listeners) listener(state);
}

void Lifecycle::AddListener(std::function<void(State)> listener) {
  absl::MutexLock lock(&mutex_);
  listeners_.push_back(std::move(listener));
}

}  // namespace shoal
