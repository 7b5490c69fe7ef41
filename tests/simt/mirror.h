// Copies of one op's host arrays on a device, for tests that are written for
// host pointers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "kernels/kernel_table.h"

namespace shoal {

// The arrays of one op. Every argument is named twice: In() or Out() with its
// extent, and after Send() by At() with its place on the device. Out of device
// memory ends the test; Fetch() aborts on a fault.
class Mirror {
 public:
  explicit Mirror(KernelTable& inner) : inner_(inner) {}
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  template <typename T>
  void In(const T* data, int64_t count) {
    Add(data, count * static_cast<int64_t>(sizeof(T)), false);
  }
  template <typename T>
  void Out(T* data, int64_t count) {
    Add(data, count * static_cast<int64_t>(sizeof(T)), true);
  }
  void In(const ConstTensorView& view) { Add(view.data, view.bytes(), false); }

  void Send() {
    std::sort(pieces_.begin(), pieces_.end(),
              [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
    for (const Piece& piece : pieces_) {
      if (ranges_.empty() || piece.begin >= ranges_.back().end) {
        ranges_.push_back({piece.begin, piece.end, nullptr});
      } else {
        ranges_.back().end = std::max(ranges_.back().end, piece.end);
      }
    }
    for (Range& range : ranges_) {
      range.buffer = *inner_.Allocate(range.end - range.begin);
      inner_.Upload(range.begin, range.end - range.begin, range.buffer->data());
    }
  }

  template <typename T>
  T* At(T* data) const {
    if (data == nullptr) return nullptr;
    const auto* address = reinterpret_cast<const uint8_t*>(data);
    for (const Range& range : ranges_) {
      if (address < range.begin || address >= range.end) continue;
      return reinterpret_cast<T*>(static_cast<uint8_t*>(range.buffer->data()) +
                                  (address - range.begin));
    }
    return data;  // an array of no elements
  }
  void Move(ConstTensorView& view) const {
    view.data = At(static_cast<const uint8_t*>(view.data));
  }

  // What was written, back to the host.
  void Fetch() {
    for (const Piece& piece : pieces_) {
      if (!piece.written) continue;
      auto* host = const_cast<uint8_t*>(piece.begin);
      const absl::Status status =
          inner_.Download(At(host), piece.end - piece.begin, host);
      if (status.ok()) continue;
      std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
      std::abort();
    }
  }

 private:
  struct Piece {
    const uint8_t* begin;
    const uint8_t* end;
    bool written;
  };
  struct Range {
    const uint8_t* begin;
    const uint8_t* end;
    std::unique_ptr<DeviceBuffer> buffer;
  };

  void Add(const void* data, int64_t bytes, bool written) {
    if (data == nullptr || bytes == 0) return;
    const auto* begin = static_cast<const uint8_t*>(data);
    pieces_.push_back({begin, begin + bytes, written});
  }

  KernelTable& inner_;
  std::vector<Piece> pieces_;
  std::vector<Range> ranges_;
};

}  // namespace shoal
