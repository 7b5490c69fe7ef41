// Engine runs sequences of one model: a bounded request queue, the batcher, the
// paged cache and the sampler behind Submit, Cancel and Snapshot. It owns the
// step thread. It knows token ids, not text, and no wire format.
//
//   auto stream = engine->Submit(std::move(request));  // any thread
//   stream->SetNotify(...); while (auto e = stream->TryNext()) ...
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/models/decoder.h"
#include "engine/observer.h"
#include "engine/sampling/sampling_params.h"
#include "engine/token_stream.h"

namespace shoal {

struct EngineOptions {
  int32_t max_num_seqs = 256;            // sequences running at once
  int32_t max_num_batched_tokens = 512;  // most tokens in one step
  int32_t max_model_len = 0;             // tokens; 0: the model's own limit
  // Tokens a cache block; rounded up to what the model's cache needs.
  int32_t block_size = 16;
  double memory_fraction = 0.5;  // of free memory at start, for the cache
  int64_t kv_cache_bytes = 0;    // 0: by memory_fraction
  int32_t max_num_queued_requests = 1024;
  int64_t max_num_queued_tokens = 0;  // prompt tokens; 0: no bound of its own
  int32_t stream_capacity = 256;      // events waiting in one TokenStream
  // Step time the batcher steers the token budget toward; 0: fixed budget.
  absl::Duration target_step_time = absl::ZeroDuration();
  bool enable_prefix_caching = true;
};

struct EngineRequest {
  std::vector<int32_t> prompt_token_ids;
  SamplingParams sampling;
  int32_t n = 1;         // sequences sampled from the prompt
  int32_t priority = 0;  // smaller runs earlier
  absl::Time deadline = absl::InfiniteFuture();
  std::string cache_salt;  // prefix blocks are shared within equal salts only
  bool bypass_prefix_cache = false;
  std::vector<std::shared_ptr<TokenConstraint>> constraints;  // empty or n
};

// A moment of the engine, for status calls and gauges.
struct EngineSnapshot {
  int32_t num_running = 0;
  int32_t num_waiting = 0;
  int64_t num_waiting_tokens = 0;  // prompt tokens of waiting requests
  int32_t free_blocks = 0;         // unused or evictable
  int32_t total_blocks = 0;
  int32_t block_size = 0;
  int32_t max_model_len = 0;
  int32_t max_num_seqs = 0;
  int32_t max_num_batched_tokens = 0;
  int64_t cache_bytes = 0;
  int64_t weight_bytes = 0;
  int64_t workspace_bytes = 0;
  absl::Status health;  // not OK: a sticky fault; no request will be served
};

class EngineStream : public TokenStream {
 public:
  // Ends every unfinished sequence: its blocks are freed after at most one
  // step. The stream then delivers final events with kCancelled. Any thread.
  virtual void Cancel() = 0;
  // Ends one sequence as finished (kStop): its text is complete, because a
  // stop string matched. Any thread.
  virtual void Finish(int32_t index) = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;  // cancels what still runs, joins the thread

  // Validates and queues. Destroying the stream cancels the request.
  // InvalidArgument: parameters, empty prompt, token out of vocabulary, prompt
  // longer than the context ("context_length_exceeded" in the message).
  // ResourceExhausted: queue full, or more cache than the whole pool.
  // Unavailable: draining. Internal: sticky fault.
  virtual absl::StatusOr<std::unique_ptr<EngineStream>> Submit(
      EngineRequest request) = 0;

  // Refuses new requests from now on; those accepted go on.
  virtual void StartDrain() = 0;
  // Waits until nothing runs or waits; false when `deadline` came first.
  virtual bool AwaitIdle(absl::Time deadline) = 0;
  // Cancels everything that runs or waits.
  virtual void CancelAll() = 0;

  virtual EngineSnapshot Snapshot() const = 0;
  virtual const ModelConfig& config() const = 0;
};

// Takes the decoder and starts the step thread. `kernels` and `observer` (may
// be nullptr) must outlive the engine. ResourceExhausted when the cache would
// not hold one sequence, with the sum of what wants memory.
absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(
    std::unique_ptr<Decoder> decoder, const EngineOptions& options,
    KernelTable& kernels, EngineObserver* observer);

}  // namespace shoal
