// A model states what it keeps of every token as groups of tensors; the paged
// cache makes memory for them and the block pool deals out blocks that index
// all of them alike. GQA: one group "k" and one "v" a layer. MLA: one latent
// row a layer. DeepSeek-V4 has rows that stand for many tokens, and state of a
// constant size a sequence.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/dtype.h"

namespace shoal {

// `num_layers` tensors of shape
//   [num_blocks, block_size / tokens_per_row, row_width], or
//   [num_sequences, rows_per_sequence, row_width] where that is not 0.
// In tiles (kernels/attention.h) the same bytes are in another order.
struct CacheGroup {
  std::string name;  // "k", "v", "latent", ...
  int32_t num_layers = 0;
  int64_t row_width = 0;  // elements
  DType dtype = DType::kF32;
  int32_t tokens_per_row = 1;  // divides the block size
  int32_t rows_per_sequence = 0;
  CacheOrder order = CacheOrder::kRows;

  int64_t row_bytes() const { return DTypeBytes(dtype, row_width); }
};

struct CacheLayout {
  std::vector<CacheGroup> groups;

  // What a block's size must be a multiple of: the largest tokens_per_row, of
  // which every other is a divisor, or a tile.
  int32_t BlockMultiple() const {
    int32_t multiple = 1;
    for (const CacheGroup& group : groups) {
      if (group.num_layers == 0) continue;
      multiple = std::max(multiple, group.order == CacheOrder::kRows
                                        ? group.tokens_per_row
                                        : kCacheTile);
    }
    return multiple;
  }
  // Bytes that `tokens`, a multiple of BlockMultiple(), occupy over all groups
  // and layers, without what sequences have of their own.
  int64_t BytesOf(int64_t tokens) const {
    int64_t bytes = 0;
    for (const CacheGroup& group : groups) {
      if (group.rows_per_sequence > 0) continue;
      bytes += group.num_layers * (tokens / group.tokens_per_row) *
               group.row_bytes();
    }
    return bytes;
  }
  int64_t BytesPerToken() const {
    return BytesOf(BlockMultiple()) / BlockMultiple();
  }
  // Bytes a running sequence occupies however long it is.
  int64_t BytesPerSequence() const {
    int64_t bytes = 0;
    for (const CacheGroup& group : groups) {
      bytes += group.num_layers * group.rows_per_sequence * group.row_bytes();
    }
    return bytes;
  }
};

}  // namespace shoal
