// How large the paged cache may be on this machine.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/cache/cache_layout.h"
#include "engine/engine.h"

namespace shoal {

struct CacheSize {
  int32_t num_blocks = 0;
  int32_t max_model_len = 0;  // tokens; never more than the blocks hold
};

// From options.kv_cache_bytes or memory_fraction of `available_bytes`, but not
// more than max_num_seqs sequences of full length could use.
// What the layout wants for each sequence comes first.
// ResourceExhausted when not even one block fits, with the sum.
absl::StatusOr<CacheSize> SizeCache(const EngineOptions& options,
                                    const CacheLayout& layout,
                                    int64_t max_position_embeddings,
                                    int64_t available_bytes);

}  // namespace shoal
