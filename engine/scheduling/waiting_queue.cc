#include "engine/scheduling/waiting_queue.h"

#include <algorithm>
#include <tuple>

#include "kernels/check.h"

namespace shoal {

bool IsOverdue(const Sequence& sequence) {
  return sequence.overtaken >= sequence.work_ahead;
}

void WaitingQueue::Add(Sequence* sequence) {
  SHOAL_CHECK(std::find(waiting_.begin(), waiting_.end(), sequence) ==
              waiting_.end());
  int64_t ahead = sequence->num_uncomputed_tokens();
  for (const Sequence* other : waiting_) {
    if (other->priority <= sequence->priority &&
        other->arrival < sequence->arrival) {
      ahead += other->num_uncomputed_tokens();
    }
  }
  sequence->work_ahead = ahead;
  sequence->overtaken = 0;
  sequence->num_skips = 0;
  num_tokens_ += sequence->num_uncomputed_tokens();
  waiting_.push_back(sequence);
}

void WaitingQueue::Remove(Sequence* sequence) {
  const auto it = std::find(waiting_.begin(), waiting_.end(), sequence);
  if (it == waiting_.end()) return;
  num_tokens_ -= sequence->num_uncomputed_tokens();
  waiting_.erase(it);
}

void WaitingQueue::Admit(Sequence* sequence) {
  Remove(sequence);
  for (Sequence* other : waiting_) {
    if (other->arrival < sequence->arrival &&
        other->priority <= sequence->priority) {
      other->overtaken += sequence->num_uncomputed_tokens();
    }
  }
}

std::vector<Sequence*> WaitingQueue::Order(absl::Time now,
                                           double seconds_per_token) const {
  const absl::Duration all_work =
      absl::Seconds(seconds_per_token * static_cast<double>(num_tokens_));
  struct Key {
    bool later;        // not lifted
    uint64_t age;      // of lifted ones
    int32_t length;    // of others
    uint64_t arrival;  // breaks ties
  };
  const auto key = [&](const Sequence* s) {
    const bool lifted =
        IsOverdue(*s) ||
        (seconds_per_token > 0 && s->deadline != absl::InfiniteFuture() &&
         s->deadline - now <= all_work);
    return Key{!lifted, lifted ? s->arrival : 0, s->num_uncomputed_tokens(),
               s->arrival};
  };
  std::vector<std::pair<Key, Sequence*>> keyed;
  keyed.reserve(waiting_.size());
  for (Sequence* s : waiting_) keyed.emplace_back(key(s), s);
  std::sort(keyed.begin(), keyed.end(), [](const auto& a, const auto& b) {
    return std::tie(a.second->priority, a.first.later, a.first.age,
                    a.first.length, a.first.arrival) <
           std::tie(b.second->priority, b.first.later, b.first.age,
                    b.first.length, b.first.arrival);
  });
  std::vector<Sequence*> order;
  order.reserve(keyed.size());
  for (const auto& entry : keyed) order.push_back(entry.second);
  return order;
}

}  // namespace shoal
