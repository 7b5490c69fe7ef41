// TokenStream carries one request's results from the step thread to a protocol
// adapter. Bounded: when more than `capacity` events or kMaxWaitingLogprobs
// wait, the sequence is paused (it keeps its blocks and takes no step) until
// the reader catches up, so a slow reader never slows the batch.
// Threads: one writer (step thread), one reader (any thread at a time).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "engine/observer.h"
#include "engine/sampling/sampling_params.h"

namespace shoal {

// Logprobs that may wait in a stream, alternatives counted: 3 MB of them.
inline constexpr int64_t kMaxWaitingLogprobs = 1 << 18;

// One step's result of one sequence of a request.
struct TokenEvent {
  int32_t index = 0;               // which of the request's n sequences
  std::vector<int32_t> token_ids;  // new completion tokens, may be empty
  std::vector<PositionLogprobs> logprobs;  // one a token if asked for
  // If asked for, one a prompt token but the first: a chunk at a time, in
  // events before the first token's, and the rest with it.
  std::vector<PositionLogprobs> prompt_logprobs;
  int32_t num_cached_tokens = 0;  // prompt tokens found in the prefix cache
  // Set on the last event of this sequence.
  std::optional<FinishReason> finish_reason;
  int32_t stop_token_id = -1;  // the token that stopped it, -1 if none did
  // Why, when finish_reason is kError or kDeadline.
  absl::Status status;
};

class TokenStream {
 public:
  virtual ~TokenStream() = default;

  // The next event, or nothing if none waits now.
  virtual std::optional<TokenEvent> TryNext() = 0;
  // Whether the last event of every sequence has been taken.
  virtual bool done() const = 0;
  // Calls `notify` whenever an event becomes ready for an empty stream (and at
  // once if one waits now). It runs on the step thread: it must only schedule.
  // An empty function unsubscribes; when SetNotify returns, no call to the
  // former function is running or will begin.
  virtual void SetNotify(std::function<void()> notify) = 0;
};

}  // namespace shoal
