// WaitingQueue orders sequences that wait for a place in the batch: by
// priority, then shortest prefill first, so that short prompts are not stuck
// behind long ones. Two things lift a sequence over that order, oldest first:
//
//   overtaken  when the work of later sequences that were admitted before it
//              reaches the work that was ahead of it on arrival (its own
//              included): it then has waited twice what first-come-first-served
//              would have made it wait, counted in prefill tokens;
//   deadline   when the time left is less than all waiting work would take.
//
// Pure policy: no clock of its own, no threads. Unit of work: tokens to
// prefill. Cost: O(n log n) an Order() over n waiting sequences.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "engine/scheduling/sequence.h"

namespace shoal {

class WaitingQueue {
 public:
  // REQUIRES: `sequence` is not in the queue. It must stay alive until removed.
  void Add(Sequence* sequence);
  // Removes without admitting (cancelled). No-op if it is not here.
  void Remove(Sequence* sequence);
  // Removes because its prefill begins: counts against older ones it overtakes.
  void Admit(Sequence* sequence);

  // Who should go first. `seconds_per_token`: measured prefill speed, 0 if
  // unknown (deadlines then do not lift).
  std::vector<Sequence*> Order(absl::Time now, double seconds_per_token) const;

  int32_t size() const { return static_cast<int32_t>(waiting_.size()); }
  bool empty() const { return waiting_.empty(); }
  int64_t num_tokens() const { return num_tokens_; }

 private:
  std::vector<Sequence*> waiting_;
  int64_t num_tokens_ = 0;  // Σ uncomputed tokens
};

// Whether it goes before all that are merely short.
bool IsOverdue(const Sequence& sequence);

}  // namespace shoal
