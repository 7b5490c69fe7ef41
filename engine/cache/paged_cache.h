// PagedCache owns the memory of a model's cache: for each group and layer of a
// CacheLayout a tensor of blocks. It knows no sequence and no reference count;
// BlockPool deals out the block ids. Threads: step thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/cache/cache_layout.h"
#include "kernels/kernel_table.h"

namespace shoal {

class PagedCache {
 public:
  // REQUIRES: num_blocks > 0, block_size > 0. ResourceExhausted when memory
  // runs out, naming the bytes asked for.
  static absl::StatusOr<std::unique_ptr<PagedCache>> Create(
      CacheLayout layout, int32_t num_blocks, int32_t block_size,
      KernelTable& kernels);

  // The tensor [num_blocks, block_size, row_width] of a group's layer.
  TensorView tensor(int group, int layer) const;
  const CacheLayout& layout() const { return layout_; }
  int32_t num_blocks() const { return num_blocks_; }
  int32_t block_size() const { return block_size_; }
  int64_t bytes() const { return bytes_; }

 private:
  PagedCache() = default;

  CacheLayout layout_;
  int32_t num_blocks_ = 0;
  int32_t block_size_ = 0;
  int64_t bytes_ = 0;
  std::vector<std::vector<std::unique_ptr<DeviceBuffer>>> buffers_;
};

}  // namespace shoal
