#include "engine/scheduling/scheduler.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using testing::ElementsAre;

const absl::Time kStart = absl::FromUnixSeconds(1000);

class SchedulerTest : public testing::Test {
 protected:
  void Make(SchedulerOptions options, int32_t num_blocks = 1000,
            int32_t block_size = 4) {
    pool_ = std::make_unique<BlockPool>(num_blocks, block_size, true);
    scheduler_ = std::make_unique<Scheduler>(options, pool_.get());
  }
  Sequence* Add(int32_t length, int32_t priority = 0) {
    auto sequence = std::make_unique<Sequence>();
    // Its own tokens, so that no prefix is shared.
    for (int32_t i = 0; i < length; ++i) {
      sequence->token_ids.push_back(next_token_++);
    }
    sequence->num_prompt_tokens = length;
    sequence->priority = priority;
    sequence->arrival = next_arrival_++;
    scheduler_->Add(sequence.get());
    sequences_.push_back(std::move(sequence));
    return sequences_.back().get();
  }
  // Plans and commits; sequences that sample get one token.
  StepPlan Step(absl::Time now = kStart) {
    StepPlan plan = scheduler_->Plan(now);
    scheduler_->Start(plan);
    scheduler_->Commit(plan, absl::Milliseconds(10));
    for (const ScheduledChunk& chunk : plan.chunks) {
      if (chunk.completes) chunk.sequence->token_ids.push_back(next_token_++);
    }
    return plan;
  }
  static std::vector<Sequence*> Sequences(const StepPlan& plan) {
    std::vector<Sequence*> result;
    for (const ScheduledChunk& c : plan.chunks) result.push_back(c.sequence);
    return result;
  }

  std::unique_ptr<BlockPool> pool_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  int32_t next_token_ = 0;
  uint64_t next_arrival_ = 1;
};

TEST_F(SchedulerTest, ShortPromptsGoFirstWithinAPriority) {
  Make({});
  Sequence* longer = Add(30);
  Sequence* shorter = Add(20);
  Sequence* urgent = Add(40, -1);
  EXPECT_THAT(Sequences(scheduler_->Plan(kStart)),
              ElementsAre(urgent, shorter, longer));
}

TEST_F(SchedulerTest, PromptsOfAStepAreWithinAFactorOfTwo) {
  Make({});
  Sequence* small = Add(10);
  Add(21);
  Sequence* similar = Add(20);
  EXPECT_THAT(Sequences(Step()), ElementsAre(small, similar));
}

TEST_F(SchedulerTest, LongPromptsAreChunkedAndDecodesDoNotWait) {
  SchedulerOptions options;
  options.max_num_batched_tokens = 16;
  Make(options);
  Sequence* first = Add(8);
  Step();
  Sequence* second = Add(100);
  const StepPlan plan = Step();
  ASSERT_EQ(plan.chunks.size(), 2);
  EXPECT_EQ(plan.chunks[0].sequence, first);
  EXPECT_TRUE(plan.chunks[0].decode);
  EXPECT_EQ(plan.chunks[1].sequence, second);
  EXPECT_EQ(plan.chunks[1].num_tokens, 15);
  EXPECT_FALSE(plan.chunks[1].completes);
}

TEST_F(SchedulerTest, ASequenceMayBoundItsChunks) {
  Make({});
  Sequence* bounded = Add(30);
  bounded->max_chunk_tokens = 7;
  Add(31);
  for (int step = 0; step < 4; ++step) {
    const StepPlan plan = Step();
    ASSERT_FALSE(plan.chunks.empty());
    const ScheduledChunk& chunk =
        *std::find_if(plan.chunks.begin(), plan.chunks.end(),
                      [&](const auto& c) { return c.sequence == bounded; });
    EXPECT_EQ(chunk.num_tokens, 7);
    EXPECT_FALSE(chunk.completes);
  }
  EXPECT_EQ(bounded->num_computed_tokens, 28);
  Step();
  EXPECT_EQ(bounded->num_computed_tokens, 30);
}

TEST_F(SchedulerTest, DecodesAreSortedLongestContextFirst) {
  Make({});
  Sequence* a = Add(10);
  Sequence* b = Add(16);
  Sequence* c = Add(13);
  Step();
  EXPECT_THAT(Sequences(Step()), ElementsAre(b, c, a));
}

TEST_F(SchedulerTest, PausedSequencesTakeNoStep) {
  Make({});
  Sequence* a = Add(4);
  Sequence* b = Add(4);
  Step();
  a->paused = true;
  EXPECT_THAT(Sequences(Step()), ElementsAre(b));
}

TEST_F(SchedulerTest, TheYoungestOfTheLowestPriorityGivesWay) {
  Make({}, /*num_blocks=*/6, /*block_size=*/4);
  Sequence* old = Add(7);
  Sequence* young = Add(7);
  Sequence* important = Add(7, -1);
  int preempted = 0;
  for (int i = 0; i < 10 && preempted == 0; ++i) {
    preempted = Step().num_preempted;
  }
  EXPECT_EQ(preempted, 1);
  EXPECT_TRUE(old->running);
  EXPECT_TRUE(important->running);
  EXPECT_FALSE(young->running);
  EXPECT_EQ(young->num_computed_tokens, 0);
  EXPECT_TRUE(young->block_table.empty());
}

TEST_F(SchedulerTest, AHeadThatDoesNotFitIsPassedABoundedNumberOfTimes) {
  SchedulerOptions options;
  options.max_skips = 3;
  options.max_num_batched_tokens = 8;
  Make(options, /*num_blocks=*/10, /*block_size=*/4);
  Sequence* running = Add(16);
  Step();
  Step();
  Sequence* heavy = Add(30, -1);
  int passed = 0;
  for (int i = 0; i < 10; ++i) {
    Sequence* light = Add(2);
    Step();
    if (!light->running) break;
    ++passed;
    scheduler_->Remove(light);
  }
  EXPECT_GE(passed, 3);
  EXPECT_LE(passed, 4);
  scheduler_->Remove(running);
  Step();
  EXPECT_TRUE(heavy->running);
}

TEST_F(SchedulerTest, BudgetFollowsTheTargetStepTime) {
  SchedulerOptions options;
  options.max_num_batched_tokens = 512;
  options.target_step_time = absl::Milliseconds(100);
  Make(options);
  for (int i = 0; i < 20; ++i) {
    Sequence* s = Add(400);
    const StepPlan plan = scheduler_->Plan(kStart);
    // One millisecond a token.
    scheduler_->Start(plan);
    scheduler_->Commit(plan, absl::Milliseconds(plan.num_prefill_tokens));
    scheduler_->Remove(s);
  }
  EXPECT_EQ(scheduler_->Plan(kStart).token_budget, 100);
}

TEST(WaitingQueueTest, ADeadlineThatIsNearLifts) {
  WaitingQueue queue;
  Sequence small, large;
  small.token_ids.resize(10);
  small.arrival = 1;
  large.token_ids.resize(1000);
  large.arrival = 2;
  large.deadline = kStart + absl::Seconds(2);
  queue.Add(&small);
  queue.Add(&large);
  EXPECT_THAT(queue.Order(kStart, 0.001), ElementsAre(&small, &large));
  EXPECT_THAT(queue.Order(kStart + absl::Seconds(1), 0.001),
              ElementsAre(&large, &small));
}

// Under a stream of short prompts a long one waits at most for its own work
// ahead and as much again, plus the one admission that reaches the bound.
TEST(WaitingQueueTest, NobodyWaitsMoreThanTwiceFirstComeFirstServed) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    WaitingQueue queue;
    std::deque<Sequence> sequences;
    struct Wait {
      int64_t work_ahead = 0;  // of everything before it when it came
      int64_t served_at_arrival = 0;
    };
    std::vector<Wait> waits;
    int64_t served = 0;
    uint64_t arrival = 0;
    const int64_t longest = 2000;
    for (int step = 0; step < 400; ++step) {
      for (uint32_t i = 0; i < 1 + random() % 3; ++i) {
        Sequence& s = sequences.emplace_back();
        s.token_ids.resize(random() % 8 == 0 ? longest : 1 + random() % 50);
        s.arrival = arrival++;
        int64_t ahead = s.num_tokens();
        ahead += queue.num_tokens();
        waits.push_back({ahead, served});
        queue.Add(&s);
      }
      Sequence* next = queue.Order(kStart, 0).front();
      queue.Admit(next);
      served += next->num_tokens();
      const Wait& wait = waits[next->arrival];
      EXPECT_LE(served - wait.served_at_arrival, 2 * wait.work_ahead + longest);
    }
  }
}

// Random arrivals, lengths and cancellations in a cache that is too small: all
// sequences finish, no step shares a slot, every token is computed exactly once
// an admission, and at the end every block is free.
TEST(SchedulerSimulationTest, EverySequenceFinishes) {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    std::mt19937 random(seed);
    constexpr int32_t kBlocks = 40, kBlockSize = 4;
    BlockPool pool(kBlocks, kBlockSize, true);
    SchedulerOptions options;
    options.max_num_seqs = 8;
    options.max_num_batched_tokens = 24;
    Scheduler scheduler(options, &pool);
    struct Entry {
      Sequence sequence;
      int32_t wanted = 0;  // tokens in the end
      bool done = false;
    };
    std::deque<Entry> entries;
    size_t unfinished = 0;
    int preempted = 0;
    for (int step = 0; step < 4000; ++step) {
      if (step < 600 && random() % 4 == 0) {
        Entry& entry = entries.emplace_back();
        Sequence& s = entry.sequence;
        s.num_prompt_tokens = static_cast<int32_t>(1 + random() % 60);
        for (int32_t i = 0; i < s.num_prompt_tokens; ++i) {
          s.token_ids.push_back(i < 20 ? i / 8
                                       : static_cast<int32_t>(random()));
        }
        s.arrival = entries.size();
        s.priority = static_cast<int32_t>(random() % 3);
        entry.wanted = s.num_prompt_tokens + 1 + random() % 40;
        scheduler.Add(&s);
        ++unfinished;
      }
      const StepPlan plan = scheduler.Plan(kStart);
      preempted += plan.num_preempted;
      const StepBatch batch = scheduler.MakeBatch(plan);
      ASSERT_LE(batch.num_tokens(), options.max_num_batched_tokens);
      std::set<int64_t> slots(batch.slot_mapping.begin(),
                              batch.slot_mapping.end());
      ASSERT_EQ(slots.size(), batch.slot_mapping.size());
      for (const ScheduledChunk& chunk : plan.chunks) {
        ASSERT_TRUE(chunk.sequence->running);
        ASSERT_GE(chunk.sequence->block_table.size() * kBlockSize,
                  chunk.sequence->num_computed_tokens + chunk.num_tokens);
      }
      scheduler.Start(plan);
      scheduler.Commit(plan, absl::Milliseconds(1));
      for (const ScheduledChunk& chunk : plan.chunks) {
        if (!chunk.completes) continue;
        chunk.sequence->token_ids.push_back(static_cast<int32_t>(random()));
      }
      for (Entry& entry : entries) {
        const bool cancelled = random() % 2000 == 0;
        if (entry.done ||
            (entry.sequence.num_tokens() < entry.wanted && !cancelled)) {
          continue;
        }
        entry.done = true;
        scheduler.Remove(&entry.sequence);
        --unfinished;
      }
      if (step >= 600 && unfinished == 0) break;
    }
    EXPECT_EQ(unfinished, 0) << "seed " << seed;
    EXPECT_GT(preempted, 0) << "the cache was meant to be too small";
    EXPECT_EQ(pool.num_free(), kBlocks);
    EXPECT_EQ(scheduler.num_running(), 0);
    EXPECT_EQ(scheduler.num_waiting(), 0);
  }
}

}  // namespace
}  // namespace shoal
