// Staging copies between pageable host memory and the device through pinned
// buffers, so that a copy to the device is queued and the host's bytes are free
// at once. Threads: one caller at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cuda/launch.h"

namespace shoal::cuda {

class Staging {
 public:
  explicit Staging(LaunchContext& context) : context_(context) {}
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Queues a copy to the device. Waits only when both buffers are in flight.
  void Upload(const void* host, int64_t bytes, void* device);
  // Waits for what was queued before and for the copy. False after an error.
  bool Download(const void* device, int64_t bytes, void* host);

  // A queued copy from the device, in a pinned buffer of its own.
  struct Fetched {
    uint8_t* data = nullptr;
    cudaEvent_t copied = nullptr;
    int64_t bytes = 0;  // room
    bool in_use = false;
  };
  // nullptr after an error. The buffer is the caller's until Release().
  Fetched* Fetch(const void* device, int64_t bytes);
  // Waits for the copy. False after an error.
  bool Await(const Fetched& fetched);
  static void Release(Fetched& fetched) { fetched.in_use = false; }

 private:
  struct Buffer {
    uint8_t* data = nullptr;
    cudaEvent_t copied = nullptr;  // the copies out of it are done
    int64_t used = 0;
  };

  bool Prepare(Buffer& buffer);
  Fetched& FreeFetched();
  void Turn();

  LaunchContext& context_;
  Buffer uploads_[2];
  int current_ = 0;
  Buffer download_;
  std::vector<std::unique_ptr<Fetched>> fetched_;
};

}  // namespace shoal::cuda
