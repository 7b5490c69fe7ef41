#include "kernels/cpu/packed_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kPackedChunk = int64_t{128} << 20;

}  // namespace

HostBuffer::HostBuffer(int64_t bytes) {
  const int64_t unit = bytes >= kHugePage ? kHugePage : 4096;
  const int64_t rounded =
      (std::max<int64_t>(bytes, 1) + unit - 1) / unit * unit;
  void* memory = mmap(nullptr, rounded, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return;
  // Fewer address translations for weights and cache; only advice.
  if (unit == kHugePage) madvise(memory, rounded, MADV_HUGEPAGE);
  data_ = memory;
  bytes_ = rounded;
}

HostBuffer::~HostBuffer() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

absl::StatusOr<PackedMemory::Place> PackedMemory::Take(int64_t bytes) {
  Place place;
  if (file_ != nullptr) {
    absl::StatusOr<uint8_t*> data = file_->Take(bytes);
    if (!data.ok()) return data.status();
    place.data = *data;
    place.is_packed = file_->is_packed();
    place.owner = file_;
    return place;
  }
  const int64_t rounded = (bytes + 63) / 64 * 64;
  if (chunk_ == nullptr || used_ + rounded > chunk_->bytes()) {
    auto chunk = std::make_shared<HostBuffer>(std::max(rounded, kPackedChunk));
    if (chunk->data() == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no memory for ", bytes, " bytes of repacked weights"));
    }
    chunk_ = std::move(chunk);
    used_ = 0;
  }
  place.data = static_cast<uint8_t*>(chunk_->data()) + used_;
  place.owner = chunk_;
  used_ += rounded;
  return place;
}

absl::Status PackedMemory::FinishFile(ThreadPool& pool) {
  if (file_ == nullptr) return absl::OkStatus();
  const std::shared_ptr<PackedFile> file = std::move(file_);
  return file->Finish(pool);
}

}  // namespace shoal
