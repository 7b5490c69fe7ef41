#include "tests/engine/guarded_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "kernels/check.h"

namespace shoal {
namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kAlignment = 64;

int64_t RoundUp(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

class GuardedMemory::Buffer : public DeviceBuffer {
 public:
  Buffer(std::shared_ptr<GuardedMemory> memory, void* data, int64_t bytes)
      : memory_(std::move(memory)) {
    data_ = data;
    bytes_ = bytes;
  }
  ~Buffer() override {
    const auto it = memory_->regions_.find(reinterpret_cast<uintptr_t>(data_));
    munmap(it->second.map, it->second.map_bytes + kPage);
    memory_->regions_.erase(it);
  }

 private:
  const std::shared_ptr<GuardedMemory> memory_;
};

std::unique_ptr<DeviceBuffer> GuardedMemory::Allocate(int64_t bytes) {
  const int64_t rounded = RoundUp(std::max<int64_t>(bytes, 1), kAlignment);
  const int64_t map_bytes = RoundUp(rounded, kPage);
  void* map = mmap(nullptr, map_bytes + kPage, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  auto* first = static_cast<uint8_t*>(map);
  uint8_t* data = first + map_bytes - rounded;
  regions_[reinterpret_cast<uintptr_t>(data)] = {bytes, first, map_bytes};
  return std::make_unique<Buffer>(shared_from_this(), data, bytes);
}

const GuardedMemory::Region* GuardedMemory::Find(const void* address,
                                                 uintptr_t* start) const {
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  auto it = regions_.upper_bound(wanted);
  if (it == regions_.begin()) return nullptr;
  --it;
  if (wanted >= it->first + static_cast<uintptr_t>(it->second.bytes)) {
    return nullptr;
  }
  *start = it->first;
  return &it->second;
}

GuardedMemory::Access::~Access() {
  for (const uintptr_t start : open_) {
    const Region& region = memory_.regions_.at(start);
    SHOAL_CHECK(mprotect(region.map, region.map_bytes, PROT_NONE) == 0);
  }
}

void GuardedMemory::Access::Use(std::string_view argument, const void* data,
                                int64_t bytes) {
  if (bytes == 0) return;
  uintptr_t start = 0;
  const Region* region = memory_.Find(data, &start);
  const int64_t offset =
      region == nullptr
          ? 0
          : static_cast<int64_t>(reinterpret_cast<uintptr_t>(data) - start);
  if (region == nullptr || bytes < 0 || offset + bytes > region->bytes) {
    std::fprintf(stderr,
                 "%.*s: %.*s: %lld bytes at %p are not inside a buffer of this "
                 "table%s\n",
                 static_cast<int>(operation_.size()), operation_.data(),
                 static_cast<int>(argument.size()), argument.data(),
                 static_cast<long long>(bytes), data,
                 region == nullptr ? "" : ": they pass its end");
    std::abort();
  }
  if (std::find(open_.begin(), open_.end(), start) != open_.end()) return;
  SHOAL_CHECK(
      mprotect(region->map, region->map_bytes, PROT_READ | PROT_WRITE) == 0);
  open_.push_back(start);
}

void GuardedMemory::Access::Host(std::string_view argument,
                                 const void* data) const {
  uintptr_t start = 0;
  if (memory_.Find(data, &start) == nullptr) return;
  std::fprintf(stderr, "%.*s: %.*s: expected host memory\n",
               static_cast<int>(operation_.size()), operation_.data(),
               static_cast<int>(argument.size()), argument.data());
  std::abort();
}

}  // namespace shoal
