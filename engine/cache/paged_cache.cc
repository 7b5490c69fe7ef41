#include "engine/cache/paged_cache.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace shoal {

std::array<int64_t, 3> PagedCache::Shape(const CacheGroup& group) const {
  if (group.rows_per_sequence > 0) {
    return {num_sequences_, group.rows_per_sequence, group.row_width};
  }
  return {num_blocks_, block_size_ / group.tokens_per_row, group.row_width};
}

absl::StatusOr<std::unique_ptr<PagedCache>> PagedCache::Create(
    CacheLayout layout, int32_t num_blocks, int32_t block_size,
    int32_t num_sequences, KernelTable& kernels) {
  SHOAL_CHECK(num_blocks > 0 && block_size > 0 && num_sequences > 0);
  SHOAL_CHECK(block_size % layout.BlockMultiple() == 0);
  std::unique_ptr<PagedCache> cache(new PagedCache());
  cache->layout_ = std::move(layout);
  cache->num_blocks_ = num_blocks;
  cache->block_size_ = block_size;
  cache->num_sequences_ = num_sequences;
  const int64_t total = cache->layout_.BytesOf(block_size) * num_blocks +
                        cache->layout_.BytesPerSequence() * num_sequences;
  for (const CacheGroup& group : cache->layout_.groups) {
    auto& layers = cache->buffers_.emplace_back();
    const auto [outer, rows, width] = cache->Shape(group);
    const int64_t bytes = DTypeBytes(group.dtype, outer * rows * width);
    for (int32_t layer = 0; layer < group.num_layers; ++layer) {
      absl::StatusOr<std::unique_ptr<DeviceBuffer>> buffer =
          kernels.Allocate(bytes);
      if (!buffer.ok()) {
        return absl::ResourceExhaustedError(
            absl::StrCat("KV cache of ", num_blocks, " blocks of ", block_size,
                         " tokens: no memory for its ", total, " bytes"));
      }
      cache->bytes_ += bytes;
      layers.push_back(*std::move(buffer));
    }
  }
  return cache;
}

TensorView PagedCache::tensor(int group, int layer) const {
  const CacheGroup& g = layout_.groups[group];
  const auto [outer, rows, width] = Shape(g);
  return TensorView(buffers_[group][layer]->data(), g.dtype,
                    {outer, rows, width});
}

}  // namespace shoal
