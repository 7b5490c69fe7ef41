// InputStaging brings what a step's ops read from the host into the kernel
// table's memory, in one copy a step:
//
//   staging.Begin();
//   const auto [host, device] = staging.Take<float>(n);  // any number of times
//   ...                                                  // fill `host`
//   status = staging.Upload();                           // before the first op
//
// Both pointers hold until the next Begin(). Where the table's memory is the
// host's they are equal and nothing is copied. Memory grows to the largest step
// seen. Threads: step thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/kernel_table.h"

namespace shoal {

template <typename T>
struct StagedArray {
  T* host = nullptr;  // to write
  T* device = nullptr;
};

class InputStaging {
 public:
  explicit InputStaging(KernelTable& kernels) : kernels_(kernels) {}

  // Forgets all arrays. Ops that read them come before whatever is queued next.
  void Begin();
  // 64-byte aligned; what it holds before it is filled is not known.
  template <typename T>
  StagedArray<T> Take(int64_t count) {
    const Place place = TakeBytes(count * static_cast<int64_t>(sizeof(T)));
    return {reinterpret_cast<T*>(place.host),
            reinterpret_cast<T*>(place.device)};
  }
  template <typename T>
  T* Copy(const std::vector<T>& values) {
    const auto array = Take<T>(static_cast<int64_t>(values.size()));
    std::copy(values.begin(), values.end(), array.host);
    return array.device;
  }
  // ResourceExhausted if the table has had no memory for an array.
  absl::Status Upload();

 private:
  struct Place {
    uint8_t* host;
    uint8_t* device;
  };
  // Arrays lie one behind another in a piece. A step that needs several leaves
  // one behind that is as large as all.
  struct Piece {
    std::unique_ptr<DeviceBuffer> device;  // nullptr: the table had no memory
    std::vector<uint8_t> copy;             // on the host, where `device` is not
    uint8_t* host = nullptr;
    int64_t bytes = 0;
    int64_t used = 0;
  };

  Place TakeBytes(int64_t bytes);
  void AddPiece(int64_t bytes);

  KernelTable& kernels_;
  std::vector<Piece> pieces_;
  absl::Status status_;
};

}  // namespace shoal
