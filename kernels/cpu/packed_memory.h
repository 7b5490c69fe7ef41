// Where the CPU's tensors and repacked weights live.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cpu/packed_file.h"
#include "kernels/kernel_table.h"

namespace shoal {

// Memory from the system, 64-byte aligned (large ones in huge pages where the
// system offers them), zeroed. nullptr data when the system refuses.
class HostBuffer : public DeviceBuffer {
 public:
  explicit HostBuffer(int64_t bytes);
  ~HostBuffer() override;
  HostBuffer(const HostBuffer&) = delete;
  HostBuffer& operator=(const HostBuffer&) = delete;
};

// Gives packed matrices their memory: out of large pieces, so that small
// matrices (experts) lie in huge pages too, or out of a file. A piece lives as
// long as any matrix in it.
class PackedMemory {
 public:
  struct Place {
    uint8_t* data = nullptr;
    bool is_packed = false;  // a file had it: to be read only
    std::shared_ptr<const void> owner;
  };

  // 64-byte aligned and, unless packed, zeroed. ResourceExhausted without
  // memory; errors of PackedFile::Take().
  absl::StatusOr<Place> Take(int64_t bytes);

  // From here on out of `file`, until it is finished.
  void Use(std::unique_ptr<PackedFile> file) { file_ = std::move(file); }
  // See PackedFile::Finish(). Does nothing without a file.
  absl::Status FinishFile(ThreadPool& pool);

 private:
  std::shared_ptr<HostBuffer> chunk_;
  int64_t used_ = 0;  // of chunk_
  std::shared_ptr<PackedFile> file_;
};

}  // namespace shoal
