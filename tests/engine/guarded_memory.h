// GuardedMemory stands for a device's memory: buffers of it can be touched only
// while an Access that names them lives. Test support.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string_view>
#include <vector>

#include "kernels/kernel_table.h"

namespace shoal {

class GuardedMemory : public std::enable_shared_from_this<GuardedMemory> {
 public:
  // A buffer that ends at a page that is never readable. nullptr without
  // memory. Threads: any one at a time.
  std::unique_ptr<DeviceBuffer> Allocate(int64_t bytes);

  // What one operation reads and writes.
  class Access {
   public:
    Access(GuardedMemory& memory, std::string_view operation)
        : memory_(memory), operation_(operation) {}
    ~Access();
    Access(const Access&) = delete;
    Access& operator=(const Access&) = delete;

    // Makes the buffer with [data, data + bytes) readable and writable. Aborts
    // with the operation's and the argument's name if none holds all of it.
    void Use(std::string_view argument, const void* data, int64_t bytes);
    // As Use(), but for `count` elements, and nothing if data is nullptr.
    template <typename T>
    void Optional(std::string_view argument, const T* data, int64_t count) {
      if (data != nullptr) Array(argument, data, count);
    }
    template <typename T>
    void Array(std::string_view argument, const T* data, int64_t count) {
      Use(argument, data, count * static_cast<int64_t>(sizeof(T)));
    }
    // Aborts if `data` lies in any buffer.
    void Host(std::string_view argument, const void* data) const;

   private:
    GuardedMemory& memory_;
    const std::string_view operation_;
    std::vector<uintptr_t> open_;  // starts of buffers
  };

 private:
  class Buffer;
  struct Region {
    int64_t bytes = 0;       // as asked for
    uint8_t* map = nullptr;  // pages that hold them
    int64_t map_bytes = 0;
  };

  // The region that `address` lies in, or nullptr; sets its start.
  const Region* Find(const void* address, uintptr_t* start) const;

  std::map<uintptr_t, Region> regions_;  // by the start of the data
};

}  // namespace shoal
