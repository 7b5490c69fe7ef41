// DeviceArena hands out pieces of device memory that it takes from the driver
// in chunks: a model has thousands of matrices, and the driver rounds each
// allocation up to megabytes. Pieces begin at 256-byte addresses.
// A piece that is freed may be given out again at once: work that still uses it
// must lie before the new use in the one stream that all use.
// Threads: one caller at a time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace shoal::cuda {

// Where an arena's chunks come from.
class ChunkSource {
 public:
  virtual ~ChunkSource() = default;
  // nullptr when there is not that much.
  virtual void* Take(int64_t bytes) = 0;
  virtual void Give(void* chunk) = 0;
};

class DeviceArena {
 public:
  // Pieces of more than a quarter of `chunk_bytes` get chunks of their own,
  // which go back when they are freed.
  DeviceArena(std::unique_ptr<ChunkSource> source, int64_t chunk_bytes)
      : source_(std::move(source)), chunk_bytes_(chunk_bytes) {}
  ~DeviceArena();
  DeviceArena(const DeviceArena&) = delete;
  DeviceArena& operator=(const DeviceArena&) = delete;

  // nullptr when the source has not that much. REQUIRES: bytes >= 0.
  void* Allocate(int64_t bytes);
  // REQUIRES: `data` came from Allocate().
  void Free(void* data);

  // Bytes in chunks that no piece has.
  int64_t free_bytes() const { return free_bytes_; }
  // Whether one piece holds all of [data, data + bytes).
  bool Contains(const void* data, int64_t bytes) const;

 private:
  struct Chunk {
    uint8_t* base = nullptr;
    int64_t bytes = 0;
    bool has_one_piece = false;       // goes back with it
    std::map<int64_t, int64_t> gaps;  // offset -> bytes, never adjacent
  };

  uint8_t* TakeFrom(Chunk& chunk, int64_t bytes);
  // A chunk and its first piece.
  uint8_t* AddChunk(int64_t chunk_bytes, int64_t bytes, bool has_one_piece);

  const std::unique_ptr<ChunkSource> source_;
  const int64_t chunk_bytes_;
  std::vector<Chunk> chunks_;
  std::map<const uint8_t*, int64_t> pieces_;  // start -> bytes, rounded up
  int64_t free_bytes_ = 0;
};

}  // namespace shoal::cuda
