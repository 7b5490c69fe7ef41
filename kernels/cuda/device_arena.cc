#include "kernels/cuda/device_arena.h"

#include <algorithm>
#include <iterator>

#include "kernels/check.h"

namespace shoal::cuda {
namespace {

constexpr int64_t kAlignment = 256;

}  // namespace

DeviceArena::~DeviceArena() {
  for (const Chunk& chunk : chunks_) source_->Give(chunk.base);
}

uint8_t* DeviceArena::TakeFrom(Chunk& chunk, int64_t bytes) {
  for (auto gap = chunk.gaps.begin(); gap != chunk.gaps.end(); ++gap) {
    const auto [offset, length] = *gap;
    if (length < bytes) continue;
    chunk.gaps.erase(gap);
    if (length > bytes) chunk.gaps[offset + bytes] = length - bytes;
    free_bytes_ -= bytes;
    pieces_[chunk.base + offset] = bytes;
    return chunk.base + offset;
  }
  return nullptr;
}

uint8_t* DeviceArena::AddChunk(int64_t chunk_bytes, int64_t bytes,
                               bool has_one_piece) {
  void* base = source_->Take(chunk_bytes);
  if (base == nullptr) return nullptr;
  Chunk& chunk = chunks_.emplace_back();
  chunk.base = static_cast<uint8_t*>(base);
  chunk.bytes = chunk_bytes;
  chunk.has_one_piece = has_one_piece;
  chunk.gaps[0] = chunk_bytes;
  free_bytes_ += chunk_bytes;
  return TakeFrom(chunk, bytes);
}

void* DeviceArena::Allocate(int64_t bytes) {
  SHOAL_CHECK(bytes >= 0);
  if (bytes > INT64_MAX - kAlignment) return nullptr;
  const int64_t rounded =
      (std::max<int64_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  if (rounded > chunk_bytes_ / 4) return AddChunk(rounded, rounded, true);
  for (Chunk& chunk : chunks_) {
    if (uint8_t* piece = TakeFrom(chunk, rounded)) return piece;
  }
  if (uint8_t* piece = AddChunk(chunk_bytes_, rounded, false)) return piece;
  return AddChunk(rounded, rounded, true);  // the last of the memory
}

void DeviceArena::Free(void* data) {
  auto* start = static_cast<uint8_t*>(data);
  const auto piece = pieces_.find(start);
  SHOAL_CHECK(piece != pieces_.end());
  const int64_t bytes = piece->second;
  pieces_.erase(piece);
  const auto chunk = std::find_if(
      chunks_.begin(), chunks_.end(), [start](const Chunk& candidate) {
        return start >= candidate.base &&
               start < candidate.base + candidate.bytes;
      });
  SHOAL_CHECK(chunk != chunks_.end());
  free_bytes_ += bytes;
  int64_t offset = start - chunk->base;
  int64_t length = bytes;
  auto next = chunk->gaps.lower_bound(offset);
  if (next != chunk->gaps.end() && next->first == offset + length) {
    length += next->second;
    next = chunk->gaps.erase(next);
  }
  if (next != chunk->gaps.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second == offset) {
      offset = previous->first;
      length += previous->second;
      chunk->gaps.erase(previous);
    }
  }
  chunk->gaps[offset] = length;
  if (chunk->has_one_piece) {
    free_bytes_ -= length;
    source_->Give(chunk->base);
    chunks_.erase(chunk);
  }
}

bool DeviceArena::Contains(const void* data, int64_t bytes) const {
  const auto* start = static_cast<const uint8_t*>(data);
  auto piece = pieces_.upper_bound(start);
  if (piece == pieces_.begin()) return false;
  --piece;
  return start + bytes <= piece->first + piece->second;
}

}  // namespace shoal::cuda
