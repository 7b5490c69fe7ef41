// StepLoop is the engine's step thread without the thread: it holds the active
// requests and runs one step after another. Everything here belongs to one
// thread.
//
//   loop.Handle(mail)  take arrivals, cancellations and finished sequences
//   loop.Step()        deadlines, plan, forward pass, sampling, results out
//
// Where the decoder can run ahead, Step() starts a step and then finishes the
// one before it, so that a device computes while the host plans and sends
// results. Sequences go on from tokens that are not known yet (DrawnToken);
// what a sequence that has ended meanwhile computed is dropped. A step whose
// logits the host must see is finished before the next is planned.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
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

  bool idle() const { return requests_.empty() && !under_way_.has_value(); }
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
  // A step that the decoder has started.
  struct StepUnderWay {
    StepPlan plan;
    std::vector<LogitsRow> rows;
    int32_t num_plain = 0;  // of `rows`, the first, which the decoder draws
    // Those in the plan, which may end before the step does.
    std::vector<std::shared_ptr<ActiveRequest>> requests;
    absl::Time started;  // on the decoder
    // Spent so far.
    absl::Duration planning, forward, sampling;
  };

  void Admit(std::unique_ptr<ActiveRequest> request);
  void ScheduleSiblings(ActiveRequest& request);
  void DropExpired(absl::Time now);
  void UpdatePaused();
  bool LastIsUnderWay(const Run& run) const;
  absl::Status StartStep(absl::Time now, StepUnderWay* step);
  absl::Status FinishStep(StepUnderWay& step);
  void ChooseRows(StepUnderWay* step, StepBatch* batch);
  // Whether a token, drawn from logits as they are, is all that the row is for.
  static bool IsPlain(const Run& run);
  absl::Status DrawPlainRows(const StepUnderWay& step);
  void AcceptPlainRows(const StepUnderWay& step);
  absl::Status ProcessLogits(std::span<const LogitsRow> rows, int32_t first);
  void NotePromptLogprobs(Run& run, int32_t position,
                          std::span<const float> logits);
  void SampleRow(Run& run, std::span<float> logits);
  bool EndsByLength(const Run& run, int32_t num_tokens) const;
  // `place`: of the token in the sequence.
  void AcceptToken(Run& run, int32_t place, int32_t token, absl::Time now);
  void FinishRun(Run& run, FinishReason reason, absl::Status status);
  void FinishRequest(ActiveRequest& request, FinishReason reason,
                     const absl::Status& status);
  void SendEvents(const StepPlan& plan);
  void Retire(uint64_t id);
  void RemoveFinished();
  void ReportFinished(const ActiveRequest& request);
  void ReportStep(const StepUnderWay& step);

  Decoder& decoder_;
  PagedCache& cache_;
  const int32_t max_model_len_;
  EngineObserver* const observer_;
  BlockPool pool_;
  Scheduler scheduler_;
  std::map<uint64_t, std::shared_ptr<ActiveRequest>> requests_;
  std::optional<StepUnderWay> under_way_;
  absl::Time last_finished_;  // of steps
  uint64_t next_arrival_ = 1;
  std::vector<TokenDraw> draws_;      // workspace
  std::vector<int32_t> tokens_;       // drawn in the step being finished
  std::vector<float> logits_;         // [kLogitsRows, vocab_size], if needed
  std::vector<float> raw_logits_;     // [vocab_size], before penalties
  std::vector<int32_t> forbidden_;    // workspace
  std::vector<int32_t> step_tokens_;  // sampled in this step
};

}  // namespace shoal
