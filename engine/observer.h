// EngineObserver is told what the engine does; metrics implement it. All calls
// come from the step thread except OnRejected (any thread): they must be cheap
// and must not call back into the engine.
#pragma once

#include <cstdint>
#include <span>

#include "engine/experts/expert_stats.h"

namespace shoal {

enum class FinishReason : uint8_t {
  kStop,       // eos, stop token, or the server decided a stop string matched
  kLength,     // max_tokens or the context's end
  kCancelled,  // the client went away or asked to
  kDeadline,   // the request's deadline passed
  kError,      // an engine fault
};

struct StepStats {
  double step_seconds = 0;     // planning + forward + sampling
  double forward_seconds = 0;  // where it is queued: queueing, waiting
  double sampling_seconds = 0;
  double planning_seconds = 0;
  int32_t num_prefill_tokens = 0;
  int32_t num_decode_tokens = 0;
  int32_t num_seqs = 0;
  int32_t token_budget = 0;  // tokens the batcher allowed itself
  int32_t num_running = 0;   // sequences after the step
  int32_t num_waiting = 0;
  int32_t free_blocks = 0;
  int32_t total_blocks = 0;
  int32_t num_preempted = 0;        // sequences preempted in this step
  int64_t prefix_query_tokens = 0;  // prompt tokens looked up in this step
  int64_t prefix_hit_tokens = 0;    // of these found cached
  // Shortest and longest prefill length grouped in this step; 0 if none.
  int32_t min_prefill_len = 0;
  int32_t max_prefill_len = 0;
  ExpertStats experts;  // since the start; of nothing without experts
};

// A finished request (all its sequences). Times in seconds from submission.
struct RequestStats {
  FinishReason reason = FinishReason::kStop;
  int32_t num_prompt_tokens = 0;
  int32_t num_cached_tokens = 0;
  int32_t num_completion_tokens = 0;  // over all sequences
  int32_t max_tokens = 0;
  int32_t n = 1;
  double queue_seconds = 0;    // until first scheduled
  double prefill_seconds = 0;  // first scheduled to first token
  double decode_seconds = 0;   // first to last token
  double e2e_seconds = 0;
  double ttft_seconds = 0;  // 0 when no token came
};

class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnAccepted() = 0;  // entered the queue (any thread)
  virtual void OnRejected() = 0;  // refused by Submit (any thread)
  virtual void OnStep(const StepStats& stats) = 0;
  virtual void OnFirstToken(double ttft_seconds) = 0;
  virtual void OnInterTokenLatency(double seconds) = 0;
  // Tokens sampled in a step, over all sequences; for drift.
  virtual void OnTokens(std::span<const int32_t> token_ids) = 0;
  virtual void OnFinished(const RequestStats& stats) = 0;
};

}  // namespace shoal
