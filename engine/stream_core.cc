#include "engine/stream_core.h"

#include <utility>

namespace shoal {

void StreamCore::Push(TokenEvent event) {
  absl::MutexLock notify_lock(&notify_mutex_);
  bool was_empty;
  {
    absl::MutexLock lock(&mutex_);
    was_empty = events_.empty();
    events_.push_back(std::move(event));
    if (events_.size() >= capacity_) was_full_ = true;
  }
  if (was_empty && notify_) notify_();
}

bool StreamCore::full() const {
  absl::MutexLock lock(&mutex_);
  return was_full_;
}

std::optional<TokenEvent> StreamCore::TryNext() {
  bool room = false;
  std::optional<TokenEvent> event;
  {
    absl::MutexLock lock(&mutex_);
    if (events_.empty()) return std::nullopt;
    event = std::move(events_.front());
    events_.pop_front();
    if (event->finish_reason.has_value()) --num_unfinished_;
    // Half empty before it counts as having room: no flutter at the edge.
    if (was_full_ && events_.size() <= capacity_ / 2) {
      was_full_ = false;
      room = true;
    }
  }
  if (room) on_room_();
  return event;
}

bool StreamCore::done() const {
  absl::MutexLock lock(&mutex_);
  return num_unfinished_ == 0;
}

void StreamCore::SetNotify(std::function<void()> notify) {
  absl::MutexLock notify_lock(&notify_mutex_);
  notify_ = std::move(notify);
  if (!notify_) return;
  bool waits;
  {
    absl::MutexLock lock(&mutex_);
    waits = !events_.empty();
  }
  if (waits) notify_();
}

}  // namespace shoal
