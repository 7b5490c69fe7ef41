// Mailbox carries commands from any thread to the step thread. Streams share it
// with the engine, so that a command after the engine's end is harmless.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/active_request.h"

namespace shoal {

struct Mail {
  std::vector<std::unique_ptr<ActiveRequest>> arrivals;
  std::vector<uint64_t> cancelled;                     // request ids
  std::vector<std::pair<uint64_t, int32_t>> finished;  // id, sequence index
  bool cancel_all = false;
  bool stop = false;
};

class Mailbox {
 public:
  // Changes the mail under the lock and wakes the step thread.
  template <typename Change>
  void Post(const Change& change) {
    absl::MutexLock lock(&mutex_);
    change(mail_);
    woken_ = true;
  }
  void Wake() {
    Post([](Mail&) {});
  }
  // Takes all mail; waits for some (or a wake) until `deadline` first.
  Mail Take(absl::Time deadline) {
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithDeadline(absl::Condition(&woken_), deadline);
    woken_ = false;
    Mail taken = std::move(mail_);
    mail_ = Mail();
    return taken;
  }

 private:
  absl::Mutex mutex_;
  Mail mail_ ABSL_GUARDED_BY(mutex_);
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace shoal
