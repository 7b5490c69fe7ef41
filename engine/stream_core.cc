#include "engine/stream_core.h"

#include <utility>

namespace shoal {
namespace {

int64_t NumLogprobs(const TokenEvent& event) {
  int64_t count = 0;
  for (const auto* list : {&event.logprobs, &event.prompt_logprobs}) {
    for (const PositionLogprobs& position : *list) {
      count += 1 + static_cast<int64_t>(position.top.size());
    }
  }
  return count;
}

}  // namespace

void StreamCore::Push(TokenEvent event) {
  absl::MutexLock notify_lock(&notify_mutex_);
  bool was_empty;
  {
    absl::MutexLock lock(&mutex_);
    was_empty = events_.empty();
    num_logprobs_ += NumLogprobs(event);
    events_.push_back(std::move(event));
    if (events_.size() >= capacity_ || num_logprobs_ >= kMaxWaitingLogprobs) {
      was_full_ = true;
    }
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
    num_logprobs_ -= NumLogprobs(*event);
    if (event->finish_reason.has_value()) --num_unfinished_;
    // Half empty before it counts as having room: no flutter at the edge.
    if (was_full_ && events_.size() <= capacity_ / 2 &&
        num_logprobs_ <= kMaxWaitingLogprobs / 2) {
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
