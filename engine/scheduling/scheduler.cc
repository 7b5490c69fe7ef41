#include "engine/scheduling/scheduler.h"

#include <algorithm>
#include <bit>
#include <tuple>

#include "kernels/check.h"

namespace shoal {
namespace {

// A budget below this would spend a step's fixed cost on too little.
constexpr int32_t kMinBudget = 32;

bool InPlan(const StepPlan& plan, const Sequence* sequence) {
  return std::any_of(
      plan.chunks.begin(), plan.chunks.end(),
      [&](const ScheduledChunk& c) { return c.sequence == sequence; });
}

int32_t ChunkTokens(const Sequence& sequence, int32_t budget) {
  return std::min(
      {budget, sequence.num_uncomputed_tokens(), sequence.max_chunk_tokens});
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, BlockPool* pool)
    : options_(options), pool_(pool) {
  SHOAL_CHECK(options.max_num_seqs > 0 && options.max_num_batched_tokens > 0);
  for (int32_t slot = options.max_num_seqs; slot > 0; --slot) {
    free_slots_.push_back(slot - 1);
  }
}

void Scheduler::Add(Sequence* sequence) { waiting_.Add(sequence); }

void Scheduler::Remove(Sequence* sequence) {
  waiting_.Remove(sequence);
  Leave(sequence);
}

// Out of the batch, if it is in it.
void Scheduler::Leave(Sequence* sequence) {
  std::erase(running_, sequence);
  if (sequence->running) free_slots_.push_back(sequence->state_slot);
  sequence->running = false;
  sequence->state_slot = -1;
  pool_->Release(sequence->block_table);
}

int32_t Scheduler::TokenBudget() const {
  const int32_t most = options_.max_num_batched_tokens;
  if (options_.target_step_time <= absl::ZeroDuration() ||
      seconds_per_token_ <= 0) {
    return most;
  }
  const double tokens =
      absl::ToDoubleSeconds(options_.target_step_time) / seconds_per_token_;
  return static_cast<int32_t>(
      std::clamp<double>(tokens, std::min<int32_t>(kMinBudget, most), most));
}

StepPlan Scheduler::Plan(absl::Time now) {
  StepPlan plan;
  plan.token_budget = TokenBudget();
  PlanDecodes(&plan);
  int32_t budget = plan.token_budget - plan.num_decode_tokens;
  PlanBegunPrefills(&plan, &budget);
  // Who just gave up blocks would only take them back.
  if (plan.num_preempted == 0) PlanNewPrefills(now, &plan, &budget);
  return plan;
}

void Scheduler::PlanDecodes(StepPlan* plan) {
  std::vector<Sequence*> decoding;
  for (Sequence* s : running_) {
    if (s->decoding() && !s->paused) decoding.push_back(s);
  }
  // Blocks go to the oldest first; the device gets the longest first.
  for (Sequence* s : decoding) {
    if (plan->num_decode_tokens >= options_.max_num_batched_tokens) break;
    if (s->running && Grow(s, 1, plan)) AddChunk(s, 1, true, plan);
  }
  std::stable_sort(plan->chunks.begin(), plan->chunks.end(),
                   [](const ScheduledChunk& a, const ScheduledChunk& b) {
                     return a.sequence->num_tokens() > b.sequence->num_tokens();
                   });
}

void Scheduler::PlanBegunPrefills(StepPlan* plan, int32_t* budget) {
  const std::vector<Sequence*> candidates = running_;
  for (Sequence* s : candidates) {
    if (*budget <= 0) return;
    if (!s->running || s->decoding() || s->paused) continue;
    const int32_t tokens = ChunkTokens(*s, *budget);
    if (!Grow(s, tokens, plan)) continue;
    AddChunk(s, tokens, false, plan);
    *budget -= tokens;
  }
}

void Scheduler::PlanNewPrefills(absl::Time now, StepPlan* plan,
                                int32_t* budget) {
  if (waiting_.empty()) return;
  int32_t group_len = 0;  // of the first prompt that begins in this step
  for (Sequence* s : waiting_.Order(now, seconds_per_token_)) {
    if (*budget <= 0 || num_running() >= options_.max_num_seqs) return;
    if (s->paused) continue;
    const int32_t length = s->num_uncomputed_tokens();
    if (group_len > 0 && !IsOverdue(*s) &&
        (length > 2 * group_len || 2 * length < group_len)) {
      continue;
    }
    if (!TryAdmit(s, plan)) {
      // Lighter ones may pass, but not forever.
      if (++s->num_skips > options_.max_skips) return;
      continue;
    }
    if (group_len == 0) group_len = length;
    const int32_t tokens = ChunkTokens(*s, *budget);
    SHOAL_CHECK(Grow(s, tokens, plan));
    AddChunk(s, tokens, false, plan);
    *budget -= tokens;
    const int32_t prefill = s->num_uncomputed_tokens();
    plan->min_prefill_len = plan->min_prefill_len == 0
                                ? prefill
                                : std::min(plan->min_prefill_len, prefill);
    plan->max_prefill_len = std::max(plan->max_prefill_len, prefill);
  }
}

// Moves a waiting sequence into the batch if its whole prompt fits the cache.
bool Scheduler::TryAdmit(Sequence* sequence, StepPlan* plan) {
  SHOAL_CHECK(sequence->block_table.empty());
  int32_t cached = 0;
  if (sequence->use_prefix_cache) {
    cached = pool_->MatchPrefix(sequence->token_ids, sequence->cache_salt,
                                sequence->block_table);
  }
  const int32_t block_size = pool_->block_size();
  // One token more, so that the first decode step does not preempt at once.
  const int32_t blocks =
      (sequence->num_tokens() + 1 + block_size - 1) / block_size -
      static_cast<int32_t>(sequence->block_table.size());
  // What already runs keeps a little room to grow.
  const int32_t reserve =
      running_.empty() ? 0 : std::min(num_running(), pool_->num_blocks() / 100);
  if (blocks + reserve > pool_->num_free()) {
    pool_->Release(sequence->block_table);
    return false;
  }
  waiting_.Admit(sequence);
  sequence->num_computed_tokens = cached;
  sequence->running = true;
  sequence->state_slot = free_slots_.back();
  free_slots_.pop_back();
  if (!sequence->admitted_before) {
    sequence->admitted_before = true;
    sequence->num_cached_tokens = cached;
    if (sequence->use_prefix_cache) {
      plan->prefix_query_tokens += sequence->num_tokens();
      plan->prefix_hit_tokens += cached;
    }
  }
  running_.push_back(sequence);
  return true;
}

// Makes the block table cover `num_tokens` more tokens. False if `sequence`
// itself had to give way.
bool Scheduler::Grow(Sequence* sequence, int32_t num_tokens, StepPlan* plan) {
  const int32_t block_size = pool_->block_size();
  const int32_t covered = sequence->num_computed_tokens + num_tokens;
  const int32_t missing = (covered + block_size - 1) / block_size -
                          static_cast<int32_t>(sequence->block_table.size());
  if (missing <= 0) return true;
  while (!pool_->Allocate(missing, sequence->block_table).ok()) {
    if (!PreemptFor(sequence, plan)) return false;
  }
  return true;
}

// Frees the blocks of the sequence that can spare them most; false if that is
// `sequence` itself.
bool Scheduler::PreemptFor(const Sequence* sequence, StepPlan* plan) {
  Sequence* victim = nullptr;
  const auto rank = [](const Sequence* s) {
    return std::make_tuple(s->paused, s->priority, s->arrival);
  };
  for (Sequence* s : running_) {
    if (victim == nullptr || rank(s) > rank(victim)) victim = s;
  }
  SHOAL_CHECK(victim != nullptr);
  Preempt(victim, plan);
  return victim != sequence;
}

void Scheduler::Preempt(Sequence* sequence, StepPlan* plan) {
  const auto it = std::find_if(
      plan->chunks.begin(), plan->chunks.end(),
      [&](const ScheduledChunk& c) { return c.sequence == sequence; });
  if (it != plan->chunks.end()) {
    (it->decode ? plan->num_decode_tokens : plan->num_prefill_tokens) -=
        it->num_tokens;
    plan->chunks.erase(it);
  }
  Leave(sequence);
  sequence->num_computed_tokens = 0;
  waiting_.Add(sequence);
  ++plan->num_preempted;
}

void Scheduler::AddChunk(Sequence* sequence, int32_t num_tokens, bool decode,
                         StepPlan* plan) {
  SHOAL_CHECK(!InPlan(*plan, sequence));
  plan->chunks.push_back({sequence, sequence->num_computed_tokens, num_tokens,
                          decode,
                          num_tokens == sequence->num_uncomputed_tokens()});
  (decode ? plan->num_decode_tokens : plan->num_prefill_tokens) += num_tokens;
}

StepBatch Scheduler::MakeBatch(const StepPlan& plan) const {
  StepBatch batch;
  const int32_t block_size = pool_->block_size();
  for (const ScheduledChunk& chunk : plan.chunks) {
    batch.max_blocks =
        std::max(batch.max_blocks,
                 static_cast<int32_t>(chunk.sequence->block_table.size()));
  }
  // In coarse steps: the ops of decode steps of one shape can be replayed.
  const int32_t step = std::max(
      16, static_cast<int32_t>(
              std::bit_floor(static_cast<uint32_t>(batch.max_blocks)) / 4));
  batch.max_blocks = (batch.max_blocks + step - 1) / step * step;
  batch.cu_seqlens_q.push_back(0);
  for (const ScheduledChunk& chunk : plan.chunks) {
    const Sequence& s = *chunk.sequence;
    for (int32_t i = 0; i < chunk.num_tokens; ++i) {
      const int32_t position = chunk.first + i;
      batch.token_ids.push_back(s.token_ids[position]);
      batch.positions.push_back(position);
      batch.slot_mapping.push_back(
          int64_t{s.block_table[position / block_size]} * block_size +
          position % block_size);
    }
    batch.cu_seqlens_q.push_back(batch.num_tokens());
    batch.context_lens.push_back(chunk.first + chunk.num_tokens);
    batch.state_slots.push_back(s.state_slot);
    batch.block_tables.insert(batch.block_tables.end(), s.block_table.begin(),
                              s.block_table.end());
    batch.block_tables.resize(
        batch.context_lens.size() * static_cast<size_t>(batch.max_blocks), -1);
  }
  return batch;
}

void Scheduler::Start(const StepPlan& plan) {
  for (const ScheduledChunk& chunk : plan.chunks) {
    chunk.sequence->num_computed_tokens += chunk.num_tokens;
  }
}

void Scheduler::Commit(const StepPlan& plan, absl::Duration elapsed) {
  const int32_t block_size = pool_->block_size();
  for (const ScheduledChunk& chunk : plan.chunks) {
    const Sequence& s = *chunk.sequence;
    if (!s.running) continue;  // has lost its blocks meanwhile
    const int32_t full_before = chunk.first / block_size;
    const int32_t full = (chunk.first + chunk.num_tokens) / block_size;
    if (s.use_prefix_cache && full > full_before) {
      pool_->Cache(s.token_ids, s.cache_salt, s.block_table, full_before, full);
    }
  }
  const int32_t tokens = plan.num_decode_tokens + plan.num_prefill_tokens;
  if (plan.num_prefill_tokens > 0) {
    const double sample = absl::ToDoubleSeconds(elapsed) / tokens;
    seconds_per_token_ = seconds_per_token_ == 0
                             ? sample
                             : 0.8 * seconds_per_token_ + 0.2 * sample;
  }
}

}  // namespace shoal
