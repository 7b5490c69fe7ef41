#include "engine/memory_budget.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"

namespace shoal {

absl::StatusOr<CacheSize> SizeCache(const EngineOptions& options,
                                    const CacheLayout& layout,
                                    int64_t max_position_embeddings,
                                    int64_t available_bytes) {
  int64_t max_len = max_position_embeddings;
  if (options.max_model_len > 0) {
    if (options.max_model_len > max_position_embeddings) {
      return absl::InvalidArgumentError(absl::StrCat(
          "max-model-len: expected at most the model's ",
          max_position_embeddings, " positions, got ", options.max_model_len));
    }
    max_len = options.max_model_len;
  }
  const int64_t budget =
      options.kv_cache_bytes > 0
          ? options.kv_cache_bytes
          : static_cast<int64_t>(options.memory_fraction *
                                 static_cast<double>(available_bytes));
  const int64_t sequences = layout.BytesPerSequence() * options.max_num_seqs;
  const int64_t block_bytes = layout.BytesOf(options.block_size);
  const int64_t blocks_per_seq =
      (max_len + options.block_size - 1) / options.block_size;
  const int64_t num_blocks =
      std::min<int64_t>({(budget - sequences) / block_bytes,
                         blocks_per_seq * options.max_num_seqs,
                         std::numeric_limits<int32_t>::max() / 2});
  if (num_blocks < 1) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the KV cache gets ", budget, " bytes (",
        options.kv_cache_bytes > 0
            ? "as asked"
            : absl::StrCat("memory-fraction ", options.memory_fraction, " of ",
                           available_bytes, " available"),
        "), but one block of ", options.block_size, " tokens takes ",
        block_bytes,
        sequences == 0
            ? ""
            : absl::StrCat(" and the state of max-num-seqs ",
                           options.max_num_seqs, " sequences ", sequences)));
  }
  return CacheSize{
      static_cast<int32_t>(num_blocks),
      static_cast<int32_t>(std::min(max_len, num_blocks * options.block_size))};
}

}  // namespace shoal
