// PagedCache owns the memory of a model's cache: for each group and layer of a
// CacheLayout a tensor of blocks, or of rows for each place in the batch. It
// knows no sequence and no reference count; BlockPool deals out the block ids,
// the scheduler the places. Threads: step thread only.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/cache/cache_layout.h"
#include "kernels/kernel_table.h"

namespace shoal {

class PagedCache {
 public:
  // REQUIRES: num_blocks > 0, block_size a multiple of layout.BlockMultiple(),
  // num_sequences > 0. ResourceExhausted when memory runs out, naming the bytes
  // asked for.
  static absl::StatusOr<std::unique_ptr<PagedCache>> Create(
      CacheLayout layout, int32_t num_blocks, int32_t block_size,
      int32_t num_sequences, KernelTable& kernels);

  // The tensor of a group's layer, of the shape that CacheGroup says.
  TensorView tensor(int group, int layer) const;
  const CacheLayout& layout() const { return layout_; }
  int32_t num_blocks() const { return num_blocks_; }
  int32_t block_size() const { return block_size_; }
  int64_t bytes() const { return bytes_; }

 private:
  PagedCache() = default;
  std::array<int64_t, 3> Shape(const CacheGroup& group) const;

  CacheLayout layout_;
  int32_t num_blocks_ = 0;
  int32_t block_size_ = 0;
  int32_t num_sequences_ = 0;
  int64_t bytes_ = 0;
  std::vector<std::vector<std::unique_ptr<DeviceBuffer>>> buffers_;
};

}  // namespace shoal
