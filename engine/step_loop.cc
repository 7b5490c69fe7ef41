#include "engine/step_loop.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace shoal {
namespace {

// Rows of logits computed at a time: few enough that a prompt's logprobs over
// the whole vocabulary stay within some tens of megabytes.
constexpr int32_t kLogitsRows = 32;

SchedulerOptions SchedulerOptionsOf(const EngineOptions& options) {
  SchedulerOptions result;
  result.max_num_seqs = options.max_num_seqs;
  result.max_num_batched_tokens = options.max_num_batched_tokens;
  result.target_step_time = options.target_step_time;
  return result;
}

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

StepLoop::StepLoop(Decoder& decoder, PagedCache& cache,
                   const EngineOptions& options, int32_t max_model_len,
                   EngineObserver* observer)
    : decoder_(decoder),
      cache_(cache),
      max_model_len_(max_model_len),
      observer_(observer),
      pool_(cache.num_blocks(), cache.block_size(),
            options.enable_prefix_caching),
      scheduler_(SchedulerOptionsOf(options), &pool_) {}

void StepLoop::Handle(Mail mail) {
  for (auto& request : mail.arrivals) Admit(std::move(request));
  for (const auto& [id, index] : mail.finished) {
    const auto it = requests_.find(id);
    if (it == requests_.end()) continue;
    Run& run = *it->second->runs[index];
    if (!run.finished) FinishRun(run, FinishReason::kStop, absl::OkStatus());
  }
  for (uint64_t id : mail.cancelled) {
    const auto it = requests_.find(id);
    if (it == requests_.end()) continue;
    FinishRequest(*it->second, FinishReason::kCancelled, absl::OkStatus());
  }
  if (mail.cancel_all) {
    for (auto& [id, request] : requests_) {
      FinishRequest(*request, FinishReason::kCancelled, absl::OkStatus());
    }
  }
  RemoveFinished();
}

void StepLoop::Admit(std::unique_ptr<ActiveRequest> request) {
  ActiveRequest& r = *request;
  requests_[r.id] = std::move(request);
  r.num_unfinished = static_cast<int32_t>(r.runs.size());
  for (auto& run : r.runs) {
    run->request = &r;
    run->arrival = next_arrival_++;
  }
  Run& first = *r.runs.front();
  first.scheduled = true;
  scheduler_.Add(&first);
  if (!first.use_prefix_cache) ScheduleSiblings(r);
}

void StepLoop::ScheduleSiblings(ActiveRequest& request) {
  for (auto& run : request.runs) {
    if (run->scheduled || run->finished) continue;
    run->scheduled = true;
    scheduler_.Add(run.get());
  }
}

void StepLoop::DropExpired(absl::Time now) {
  for (auto& [id, request] : requests_) {
    if (request->spec.deadline > now) continue;
    FinishRequest(*request, FinishReason::kDeadline,
                  absl::DeadlineExceededError("the request's deadline passed"));
  }
  RemoveFinished();
}

absl::Time StepLoop::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, request] : requests_) {
    next = std::min(next, request->spec.deadline);
  }
  return next;
}

void StepLoop::UpdatePaused() {
  for (auto& [id, request] : requests_) {
    const bool full = request->stream->full();
    for (auto& run : request->runs) run->paused = full || LastIsUnderWay(*run);
  }
}

bool StepLoop::LastIsUnderWay(const Run& run) const {
  return IsDrawnToken(run.token_ids.back()) &&
         EndsByLength(run, run.num_tokens());
}

absl::StatusOr<bool> StepLoop::Step() {
  const absl::Time now = absl::Now();
  DropExpired(now);
  UpdatePaused();
  StepUnderWay next;
  next.plan = scheduler_.Plan(now);
  const bool starts = !next.plan.chunks.empty();
  if (!starts && !under_way_.has_value()) return false;
  absl::Status status = starts ? StartStep(now, &next) : absl::OkStatus();
  if (status.ok() && under_way_.has_value()) status = FinishStep(*under_way_);
  under_way_.reset();
  if (status.ok() && starts) {
    const bool all_drawn =
        next.num_plain == static_cast<int32_t>(next.rows.size());
    if (all_drawn && decoder_.can_run_ahead()) {
      under_way_ = std::move(next);
    } else {
      status = FinishStep(next);
    }
  }
  if (!status.ok()) {
    Fail(status);
    return status;
  }
  return true;
}

absl::Status StepLoop::StartStep(absl::Time now, StepUnderWay* step) {
  StepBatch batch = scheduler_.MakeBatch(step->plan);
  ChooseRows(step, &batch);
  for (const ScheduledChunk& chunk : step->plan.chunks) {
    auto& request = *static_cast<Run*>(chunk.sequence)->request;
    if (!request.first_scheduled.has_value()) request.first_scheduled = now;
    step->requests.push_back(requests_.at(request.id));
  }
  step->started = absl::Now();
  step->planning = step->started - now;
  absl::Status status = decoder_.Start(batch, cache_);
  const absl::Time queued = absl::Now();
  step->forward = queued - step->started;
  if (!status.ok()) return status;
  scheduler_.Start(step->plan);
  status = DrawPlainRows(*step);
  step->sampling = absl::Now() - queued;
  return status;
}

absl::Status StepLoop::FinishStep(StepUnderWay& step) {
  const absl::Time begin = absl::Now();
  absl::Status status = decoder_.Finish(&tokens_);
  if (!status.ok()) return status;
  const absl::Time finished = absl::Now();
  step.forward += finished - begin;
  // A step that was started behind another began when that one ended.
  scheduler_.Commit(step.plan,
                    finished - std::max(step.started, last_finished_));
  last_finished_ = finished;
  step_tokens_.clear();
  AcceptPlainRows(step);
  const std::span<const LogitsRow> rows(step.rows);
  for (int32_t first = step.num_plain;
       first < static_cast<int32_t>(rows.size()); first += kLogitsRows) {
    const int32_t count =
        std::min(kLogitsRows, static_cast<int32_t>(rows.size()) - first);
    status = ProcessLogits(rows.subspan(first, count), first);
    if (!status.ok()) return status;
  }
  SendEvents(step.plan);
  RemoveFinished();
  step.sampling += absl::Now() - finished;
  ReportStep(step);
  return absl::OkStatus();
}

void StepLoop::ReportStep(const StepUnderWay& step) {
  if (observer_ == nullptr) return;
  const StepPlan& plan = step.plan;
  StepStats stats;
  stats.step_seconds =
      absl::ToDoubleSeconds(step.planning + step.forward + step.sampling);
  stats.planning_seconds = absl::ToDoubleSeconds(step.planning);
  stats.forward_seconds = absl::ToDoubleSeconds(step.forward);
  stats.sampling_seconds = absl::ToDoubleSeconds(step.sampling);
  stats.num_prefill_tokens = plan.num_prefill_tokens;
  stats.num_decode_tokens = plan.num_decode_tokens;
  stats.num_seqs = static_cast<int32_t>(plan.chunks.size());
  stats.token_budget = plan.token_budget;
  stats.num_running = scheduler_.num_running();
  stats.num_waiting = scheduler_.num_waiting();
  stats.free_blocks = pool_.num_free();
  stats.total_blocks = pool_.num_blocks();
  stats.num_preempted = plan.num_preempted;
  stats.prefix_query_tokens = plan.prefix_query_tokens;
  stats.prefix_hit_tokens = plan.prefix_hit_tokens;
  stats.min_prefill_len = plan.min_prefill_len;
  stats.max_prefill_len = plan.max_prefill_len;
  stats.experts = decoder_.expert_stats();
  observer_->OnStep(stats);
  if (!step_tokens_.empty()) observer_->OnTokens(step_tokens_);
}

void StepLoop::Fail(const absl::Status& fault) {
  under_way_.reset();
  for (auto& [id, request] : requests_) {
    FinishRequest(*request, FinishReason::kError, fault);
  }
  RemoveFinished();
}

// Which rows of the batch need logits: the last of a sequence that samples, and
// prompt positions whose successor's logprob is asked for. Plain ones first.
void StepLoop::ChooseRows(StepUnderWay* step, StepBatch* batch) {
  std::vector<LogitsRow>& rows = step->rows;
  for (size_t c = 0; c < step->plan.chunks.size(); ++c) {
    const ScheduledChunk& chunk = step->plan.chunks[c];
    Run& run = *static_cast<Run*>(chunk.sequence);
    const int32_t first_row = batch->cu_seqlens_q[c];
    ActiveRequest& request = *run.request;
    const bool wants_prompt =
        run.index == 0 && request.spec.sampling.prompt_logprobs >= 0;
    for (int32_t i = 0; i < chunk.num_tokens; ++i) {
      const int32_t position = chunk.first + i;
      const bool last = chunk.completes && i + 1 == chunk.num_tokens;
      // A preempted prefill comes by again: what was told is not told twice.
      const bool prompt = wants_prompt && position == request.num_prompt_rows &&
                          position + 1 < run.num_prompt_tokens;
      if (prompt) ++request.num_prompt_rows;
      if (!last && !prompt) continue;
      rows.push_back({&run, position, last, first_row + i});
    }
  }
  const auto other = std::stable_partition(
      rows.begin(), rows.end(),
      [](const LogitsRow& row) { return IsPlain(*row.run); });
  step->num_plain = static_cast<int32_t>(other - rows.begin());
  for (const LogitsRow& row : rows) batch->logits_rows.push_back(row.row);
}

bool StepLoop::IsPlain(const Run& run) {
  const SamplingParams& sampling = run.request->spec.sampling;
  return sampling.logprobs < 0 && sampling.prompt_logprobs < 0 &&
         run.sampler->is_plain() &&
         run.num_completion_tokens() >= sampling.min_tokens;
}

absl::Status StepLoop::DrawPlainRows(const StepUnderWay& step) {
  if (step.num_plain == 0) return absl::OkStatus();
  draws_.clear();
  bool greedy = true;
  for (int32_t i = 0; i < step.num_plain; ++i) {
    Run& run = *step.rows[i].run;
    draws_.push_back(run.sampler->NextDraw());
    greedy &= draws_.back().temperature <= 0;
    run.token_ids.push_back(DrawnToken(i));
  }
  return decoder_.Draw(step.num_plain, greedy ? nullptr : draws_.data());
}

void StepLoop::AcceptPlainRows(const StepUnderWay& step) {
  const absl::Time now = absl::Now();
  for (int32_t i = 0; i < step.num_plain; ++i) {
    Run& run = *step.rows[i].run;
    if (run.finished) continue;
    if (tokens_[i] < 0) {
      FinishRun(run, FinishReason::kError,
                absl::InternalError(
                    "the model computed a logit that is not a finite number"));
    } else {
      AcceptToken(run, step.rows[i].position + 1, tokens_[i], now);
    }
  }
}

// `first`: of the decoder's rows.
absl::Status StepLoop::ProcessLogits(std::span<const LogitsRow> rows,
                                     int32_t first) {
  const int64_t vocab_size = decoder_.config().vocab_size;
  logits_.resize(kLogitsRows * vocab_size);
  absl::Status status =
      decoder_.Logits(first, static_cast<int32_t>(rows.size()), logits_.data());
  if (!status.ok()) return status;
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::span<float> logits(
        logits_.data() + static_cast<int64_t>(i) * vocab_size, vocab_size);
    if (rows[i].samples) {
      SampleRow(*rows[i].run, logits);
    } else {
      NotePromptLogprobs(*rows[i].run, rows[i].position, logits);
    }
  }
  return absl::OkStatus();
}

void StepLoop::NotePromptLogprobs(Run& run, int32_t position,
                                  std::span<const float> logits) {
  run.event.prompt_logprobs.push_back(
      ComputeLogprobs(logits, run.token_ids[position + 1],
                      run.request->spec.sampling.prompt_logprobs));
  run.has_event = true;
}

void StepLoop::SampleRow(Run& run, std::span<float> logits) {
  const SamplingParams& sampling = run.request->spec.sampling;
  if (sampling.logprobs >= 0) raw_logits_.assign(logits.begin(), logits.end());
  forbidden_.clear();
  if (run.num_completion_tokens() < sampling.min_tokens) {
    forbidden_ = sampling.stop_token_ids;
    const std::vector<int32_t>& eos = decoder_.config().eos_token_ids;
    forbidden_.insert(forbidden_.end(), eos.begin(), eos.end());
  }
  const absl::StatusOr<int32_t> token = run.sampler->Sample(logits, forbidden_);
  absl::Status status = token.status();
  if (status.ok()) status = run.sampler->Accept(*token);
  if (!status.ok()) {
    FinishRun(run, FinishReason::kError, status);
    return;
  }
  if (sampling.logprobs >= 0) {
    run.event.logprobs.push_back(
        ComputeLogprobs(raw_logits_, *token, sampling.logprobs));
  }
  run.token_ids.push_back(*token);
  AcceptToken(run, run.num_tokens() - 1, *token, absl::Now());
}

bool StepLoop::EndsByLength(const Run& run, int32_t num_tokens) const {
  return num_tokens - run.num_prompt_tokens >=
             run.request->spec.sampling.max_tokens ||
         num_tokens >= max_model_len_;
}

void StepLoop::AcceptToken(Run& run, int32_t place, int32_t token,
                           absl::Time now) {
  ActiveRequest& request = *run.request;
  const SamplingParams& sampling = request.spec.sampling;
  step_tokens_.push_back(token);
  if (place == run.num_prompt_tokens) {
    run.event.num_cached_tokens = run.num_cached_tokens;
    if (!request.first_token.has_value()) {
      request.first_token = now;
      if (observer_ != nullptr) {
        observer_->OnFirstToken(absl::ToDoubleSeconds(now - request.submitted));
      }
    }
  } else if (observer_ != nullptr) {
    observer_->OnInterTokenLatency(absl::ToDoubleSeconds(now - run.last_token));
  }
  run.last_token = now;
  request.last_token = now;
  run.token_ids[place] = token;
  run.event.token_ids.push_back(token);
  run.has_event = true;

  const bool eos =
      !sampling.ignore_eos && Contains(decoder_.config().eos_token_ids, token);
  if (eos || Contains(sampling.stop_token_ids, token)) {
    run.event.stop_token_id = token;
    FinishRun(run, FinishReason::kStop, absl::OkStatus());
  } else if (EndsByLength(run, place + 1)) {
    FinishRun(run, FinishReason::kLength, absl::OkStatus());
  }
}

void StepLoop::FinishRun(Run& run, FinishReason reason, absl::Status status) {
  ActiveRequest& request = *run.request;
  run.finished = true;
  scheduler_.Remove(&run);
  while (IsDrawnToken(run.token_ids.back())) run.token_ids.pop_back();
  run.event.index = run.index;
  run.event.finish_reason = reason;
  run.event.status = std::move(status);
  request.stream->Push(std::move(run.event));
  run.event = TokenEvent();
  run.has_event = false;
  request.reason = std::max(request.reason, reason);
  --request.num_unfinished;
  // The first sequence may end with its first token.
  ScheduleSiblings(request);
}

void StepLoop::FinishRequest(ActiveRequest& request, FinishReason reason,
                             const absl::Status& status) {
  for (auto& run : request.runs) run->scheduled = true;
  for (auto& run : request.runs) {
    if (!run->finished) FinishRun(*run, reason, status);
  }
}

void StepLoop::SendEvents(const StepPlan& plan) {
  for (const ScheduledChunk& chunk : plan.chunks) {
    Run& run = *static_cast<Run*>(chunk.sequence);
    if (run.request->first_token.has_value()) ScheduleSiblings(*run.request);
    if (!run.has_event) continue;
    run.event.index = run.index;
    run.request->stream->Push(std::move(run.event));
    run.event = TokenEvent();
    run.has_event = false;
  }
}

void StepLoop::RemoveFinished() {
  for (auto it = requests_.begin(); it != requests_.end();) {
    if (it->second->num_unfinished > 0) {
      ++it;
      continue;
    }
    ReportFinished(*it->second);
    it = requests_.erase(it);
  }
}

void StepLoop::ReportFinished(const ActiveRequest& request) {
  if (observer_ == nullptr) return;
  const absl::Time now = absl::Now();
  const auto seconds = [](absl::Duration d) {
    return std::max(0.0, absl::ToDoubleSeconds(d));
  };
  RequestStats stats;
  stats.reason = request.reason;
  stats.n = static_cast<int32_t>(request.runs.size());
  stats.max_tokens = request.spec.sampling.max_tokens;
  stats.num_prompt_tokens = request.runs.front()->num_prompt_tokens;
  stats.num_cached_tokens = request.runs.front()->num_cached_tokens;
  for (const auto& run : request.runs) {
    stats.num_completion_tokens += run->num_completion_tokens();
  }
  const absl::Time scheduled = request.first_scheduled.value_or(now);
  const absl::Time first = request.first_token.value_or(now);
  stats.queue_seconds = seconds(scheduled - request.submitted);
  stats.e2e_seconds = seconds(now - request.submitted);
  if (request.first_scheduled.has_value()) {
    stats.prefill_seconds = seconds(first - scheduled);
  }
  if (request.first_token.has_value()) {
    stats.ttft_seconds = seconds(first - request.submitted);
    stats.decode_seconds = seconds(request.last_token - first);
  }
  observer_->OnFinished(stats);
}

}  // namespace shoal
