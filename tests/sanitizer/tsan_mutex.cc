// Tells ThreadSanitizer what absl::Mutex does. Debian's Abseil is compiled
// without it, so every pair of accesses that a mutex orders would look like a
// race. Linked into ThreadSanitizer builds only, with --wrap for each function:
// calls from our objects come here, and __real_ names lead on.
//
// What one thread wrote before it lets a mutex go is visible to the next that
// takes it; waiting for a condition lets go and takes again.
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

extern "C" {

void __tsan_acquire(void* address);
void __tsan_release(void* address);
// A condition reads what the mutex guards, inside Abseil: by whoever waits, or
// by the thread that unlocks, after we said that it let go.
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);

#define SHOAL_REAL(name) __real__ZN4absl7debian35Mutex##name
#define SHOAL_WRAP(name) __wrap__ZN4absl7debian35Mutex##name

void SHOAL_REAL(4LockEv)(absl::Mutex* mutex);
void SHOAL_REAL(6UnlockEv)(absl::Mutex* mutex);
void SHOAL_REAL(5AwaitERKNS0_9ConditionE)(absl::Mutex* mutex,
                                          const absl::Condition* condition);
bool SHOAL_REAL(17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE)(
    absl::Mutex* mutex, const absl::Condition* condition, absl::Time deadline);

bool SHOAL_REAL(16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)(
    absl::Mutex* mutex, const absl::Condition* condition,
    absl::Duration timeout);

void SHOAL_WRAP(4LockEv)(absl::Mutex* mutex) {
  SHOAL_REAL(4LockEv)(mutex);
  __tsan_acquire(mutex);
}

void SHOAL_WRAP(6UnlockEv)(absl::Mutex* mutex) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  SHOAL_REAL(6UnlockEv)(mutex);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}

void SHOAL_WRAP(5AwaitERKNS0_9ConditionE)(absl::Mutex* mutex,
                                          const absl::Condition* condition) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  SHOAL_REAL(5AwaitERKNS0_9ConditionE)(mutex, condition);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
}

bool SHOAL_WRAP(17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE)(
    absl::Mutex* mutex, const absl::Condition* condition, absl::Time deadline) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  const bool met = SHOAL_REAL(17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE)(
      mutex, condition, deadline);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
  return met;
}

bool SHOAL_WRAP(16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)(
    absl::Mutex* mutex, const absl::Condition* condition,
    absl::Duration timeout) {
  __tsan_release(mutex);
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  const bool met =
      SHOAL_REAL(16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE)(
          mutex, condition, timeout);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  __tsan_acquire(mutex);
  return met;
}

}  // extern "C"
