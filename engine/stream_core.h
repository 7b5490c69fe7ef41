// StreamCore is the bounded queue between the step thread and one request's
// reader; both hold it, so it outlives whichever leaves first. It implements
// what TokenStream promises. Threads: one writer, one reader.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "engine/token_stream.h"

namespace shoal {

class StreamCore {
 public:
  // `num_sequences` last events will come. `on_room` is called, from the
  // reader's thread, when a stream that was full has room again.
  StreamCore(int32_t capacity, int32_t num_sequences,
             std::function<void()> on_room)
      : capacity_(capacity),
        num_unfinished_(num_sequences),
        on_room_(std::move(on_room)) {}

  // Writer. Events past the capacity are kept too: the writer asks full() and
  // stops producing, but what a step has produced is never dropped.
  void Push(TokenEvent event);
  bool full() const;

  // Reader; see TokenStream.
  std::optional<TokenEvent> TryNext();
  bool done() const;
  void SetNotify(std::function<void()> notify);

 private:
  const size_t capacity_;
  mutable absl::Mutex mutex_;
  std::deque<TokenEvent> events_ ABSL_GUARDED_BY(mutex_);
  int32_t num_unfinished_ ABSL_GUARDED_BY(mutex_);
  int64_t num_logprobs_ ABSL_GUARDED_BY(mutex_) = 0;  // in events_
  bool was_full_ ABSL_GUARDED_BY(mutex_) = false;
  const std::function<void()> on_room_;
  // Held while notify_ runs, so that SetNotify() can promise that it does not.
  absl::Mutex notify_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  std::function<void()> notify_ ABSL_GUARDED_BY(notify_mutex_);
};

}  // namespace shoal
