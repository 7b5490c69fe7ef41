// A model states what it keeps of every token as groups of tensors; the paged
// cache makes memory for them and the block pool deals out blocks that index
// all of them alike. GQA: one group "k" and one "v" a layer. MLA: one latent
// row a layer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/dtype.h"

namespace shoal {

// `num_layers` tensors of shape [num_blocks, block_size, row_width].
struct CacheGroup {
  std::string name;  // "k", "v", "latent", ...
  int32_t num_layers = 0;
  int64_t row_width = 0;  // elements a token and layer
  DType dtype = DType::kF32;
};

struct CacheLayout {
  std::vector<CacheGroup> groups;

  // Bytes one token occupies over all groups and layers.
  int64_t BytesPerToken() const {
    int64_t bytes = 0;
    for (const CacheGroup& group : groups) {
      bytes += group.num_layers * DTypeBytes(group.dtype, group.row_width);
    }
    return bytes;
  }
};

}  // namespace shoal
