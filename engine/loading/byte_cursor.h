// ByteCursor walks a byte range front to back and never leaves it: each read
// either fits into what is left or fails without moving. Little-endian hosts
// only, like the formats it reads.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>

namespace shoal {

static_assert(std::endian::native == std::endian::little);

class ByteCursor {
 public:
  // The range must outlive the cursor and what it hands out.
  ByteCursor(const uint8_t* data, int64_t size) : data_(data), size_(size) {}

  int64_t position() const { return position_; }
  int64_t remaining() const { return size_ - position_; }
  const uint8_t* current() const { return data_ + position_; }

  template <typename T>
  [[nodiscard]] bool Read(T* value) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (remaining() < static_cast<int64_t>(sizeof(T))) return false;
    std::memcpy(value, current(), sizeof(T));
    position_ += sizeof(T);
    return true;
  }

  // u64 length and that many bytes, not copied.
  [[nodiscard]] bool ReadString(std::string_view* text) {
    const int64_t start = position_;
    uint64_t length;
    if (!Read(&length)) return false;
    if (length > static_cast<uint64_t>(remaining())) {
      position_ = start;
      return false;
    }
    *text = {reinterpret_cast<const char*>(current()),
             static_cast<size_t>(length)};
    position_ += static_cast<int64_t>(length);
    return true;
  }

  // `count` items of `item_bytes` each; the product cannot overflow.
  [[nodiscard]] bool Skip(uint64_t count, int64_t item_bytes) {
    if (count > static_cast<uint64_t>(remaining() / item_bytes)) return false;
    position_ += static_cast<int64_t>(count) * item_bytes;
    return true;
  }

 private:
  const uint8_t* data_;
  int64_t size_;
  int64_t position_ = 0;
};

}  // namespace shoal
