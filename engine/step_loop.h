// StepLoop is the engine's step thread without the thread: it holds the active
// requests and runs one step at a time. Everything here belongs to one thread.
//
//   loop.Handle(mail)  take arrivals, cancellations and finished sequences
//   loop.Step(now)     deadlines, plan, forward pass, sampling, results out
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/active_request.h"
#include "engine/cache/block_pool.h"
#include "engine/cache/paged_cache.h"
#include "engine/mailbox.h"
#include "engine/models/decoder.h"
#include "engine/observer.h"
#include "engine/scheduling/scheduler.h"

namespace shoal {

class StepLoop {
 public:
  // All must outlive this; `observer` may be nullptr. `max_model_len` in
  // tokens.
  StepLoop(Decoder& decoder, PagedCache& cache, const EngineOptions& options,
           int32_t max_model_len, EngineObserver* observer);

  void Handle(Mail mail);
  // False when there was nothing to compute. A model's fault ends every request
  // and comes back; no step may follow it.
  absl::StatusOr<bool> Step();
  // Ends every request with that fault: those that came after it.
  void Fail(const absl::Status& fault);

  bool idle() const { return requests_.empty(); }
  int32_t num_requests() const {
    return static_cast<int32_t>(requests_.size());
  }
  const Scheduler& scheduler() const { return scheduler_; }
  const BlockPool& pool() const { return pool_; }
  // Earliest deadline of any request.
  absl::Time NextDeadline() const;

 private:
  // One row of logits that a step computes.
  struct LogitsRow {
    Run* run;
    int32_t position;  // of the token whose row this is
    bool samples;      // else: a prompt position whose logprob is asked for
    int32_t row;       // of the batch
  };

  void Admit(std::unique_ptr<ActiveRequest> request);
  void ScheduleSiblings(ActiveRequest& request);
  void DropExpired(absl::Time now);
  void UpdatePaused();
  std::vector<LogitsRow> ChooseRows(const StepPlan& plan, StepBatch* batch);
  absl::Status ProcessRows(std::span<const LogitsRow> rows);
  // Whether a token, drawn from logits as they are, is all that the row is for.
  static bool IsPlain(const Run& run);
  absl::Status SamplePlainRows(std::span<const LogitsRow> rows);
  absl::Status ProcessLogits(std::span<const LogitsRow> rows, int32_t first);
  void NotePromptLogprobs(Run& run, int32_t position,
                          std::span<const float> logits);
  void SampleRow(Run& run, std::span<float> logits);
  void AcceptToken(Run& run, int32_t token, absl::Time now);
  void FinishRun(Run& run, FinishReason reason, absl::Status status);
  void FinishRequest(ActiveRequest& request, FinishReason reason,
                     const absl::Status& status);
  void SendEvents(const StepPlan& plan);
  void Retire(uint64_t id);
  void RemoveFinished();
  void ReportFinished(const ActiveRequest& request);

  Decoder& decoder_;
  PagedCache& cache_;
  const int32_t max_model_len_;
  EngineObserver* const observer_;
  BlockPool pool_;
  Scheduler scheduler_;
  std::map<uint64_t, std::unique_ptr<ActiveRequest>> requests_;
  uint64_t next_arrival_ = 1;
  std::vector<TokenDraw> draws_;      // workspace
  std::vector<int32_t> tokens_;       // workspace
  std::vector<float> logits_;         // [kLogitsRows, vocab_size], if needed
  std::vector<float> raw_logits_;     // [vocab_size], before penalties
  std::vector<int32_t> forbidden_;    // workspace
  std::vector<int32_t> step_tokens_;  // sampled in this step
};

}  // namespace shoal
