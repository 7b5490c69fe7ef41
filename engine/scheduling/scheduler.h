// Scheduler decides what each step computes: the next token of every running
// sequence, then prefill chunks up to the token budget, first of prompts
// already begun, then of waiting ones (waiting_queue.h). It takes cache blocks
// from the pool for what it plans and gives them back when sequences leave.
//
//   new prompts of a step have lengths within a factor of two of the first, so
//     that a short one does not wait for a long one's chunk (overdue ones join
//     regardless);
//   a waiting head whose prompt does not fit the cache is passed over by
//   lighter
//     ones at most max_skips times, then admission waits for it;
//   out of blocks: paused sequences first, then the youngest of the lowest
//     priority, give up theirs and go back to waiting (their tokens are
//     computed again, most of them found in the prefix cache);
//   with a target step time the budget follows the measured time a token takes.
//
// Pure: the clock is passed in, nothing is random, no threads.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "engine/cache/block_pool.h"
#include "engine/scheduling/sequence.h"
#include "engine/scheduling/step_batch.h"
#include "engine/scheduling/waiting_queue.h"

namespace shoal {

struct SchedulerOptions {
  int32_t max_num_seqs = 256;
  int32_t max_num_batched_tokens = 2048;
  int32_t max_skips = 16;
  absl::Duration target_step_time = absl::ZeroDuration();  // 0: fixed budget
};

// Tokens [first, first + num_tokens) of a sequence.
struct ScheduledChunk {
  Sequence* sequence = nullptr;
  int32_t first = 0;
  int32_t num_tokens = 0;
  bool decode = false;
  // Whether it reaches the sequence's last token, so that one is sampled.
  bool completes = false;
};

struct StepPlan {
  std::vector<ScheduledChunk>
      chunks;  // decodes, longest context first; prefill
  int32_t token_budget = 0;
  int32_t num_preempted = 0;
  int32_t num_decode_tokens = 0;
  int32_t num_prefill_tokens = 0;
  int64_t prefix_query_tokens = 0;
  int64_t prefix_hit_tokens = 0;
  // Over prompts that begin in this step; 0 if none does.
  int32_t min_prefill_len = 0;
  int32_t max_prefill_len = 0;
};

class Scheduler {
 public:
  // `pool` must outlive this. REQUIRES: both limits > 0.
  Scheduler(const SchedulerOptions& options, BlockPool* pool);

  // Sequences stay the caller's; they must be removed before they die.
  void Add(Sequence* sequence);
  // Takes a sequence out, wherever it is, and frees its blocks.
  void Remove(Sequence* sequence);

  StepPlan Plan(absl::Time now);
  // The model's input for a plan; `logits_rows` is left empty.
  StepBatch MakeBatch(const StepPlan& plan) const;
  // The plan's step is under way: its tokens count as computed, so that the
  // next step may be planned behind it.
  void Start(const StepPlan& plan);
  // The step is done, `elapsed` after it began: what it filled of blocks
  // becomes known to the prefix cache. At most one step has been planned since
  // Start(). REQUIRES: the plan's sequences are alive, and the tokens that it
  // computed are known.
  void Commit(const StepPlan& plan, absl::Duration elapsed);

  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t num_waiting() const { return waiting_.size(); }
  int64_t num_waiting_tokens() const { return waiting_.num_tokens(); }

 private:
  int32_t TokenBudget() const;
  bool Grow(Sequence* sequence, int32_t num_tokens, StepPlan* plan);
  bool PreemptFor(const Sequence* sequence, StepPlan* plan);
  void Preempt(Sequence* sequence, StepPlan* plan);
  void PlanDecodes(StepPlan* plan);
  void PlanBegunPrefills(StepPlan* plan, int32_t* budget);
  void PlanNewPrefills(absl::Time now, StepPlan* plan, int32_t* budget);
  bool TryAdmit(Sequence* sequence, StepPlan* plan);
  void Leave(Sequence* sequence);
  void AddChunk(Sequence* sequence, int32_t num_tokens, bool decode,
                StepPlan* plan);

  const SchedulerOptions options_;
  BlockPool* const pool_;
  WaitingQueue waiting_;
  std::vector<Sequence*> running_;   // in the order of admission
  std::vector<int32_t> free_slots_;  // of [0, max_num_seqs)
  double seconds_per_token_ = 0;  // smoothed, of steps with prefill; 0: unknown
};

}  // namespace shoal
