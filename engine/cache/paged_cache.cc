#include "engine/cache/paged_cache.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<PagedCache>> PagedCache::Create(
    CacheLayout layout, int32_t num_blocks, int32_t block_size,
    KernelTable& kernels) {
  SHOAL_CHECK(num_blocks > 0 && block_size > 0);
  std::unique_ptr<PagedCache> cache(new PagedCache());
  cache->layout_ = std::move(layout);
  cache->num_blocks_ = num_blocks;
  cache->block_size_ = block_size;
  const int64_t total =
      cache->layout_.BytesPerToken() * num_blocks * block_size;
  for (const CacheGroup& group : cache->layout_.groups) {
    auto& layers = cache->buffers_.emplace_back();
    const int64_t bytes = DTypeBytes(
        group.dtype, int64_t{num_blocks} * block_size * group.row_width);
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
  return TensorView(buffers_[group][layer]->data(), g.dtype,
                    {num_blocks_, block_size_, g.row_width});
}

}  // namespace shoal
