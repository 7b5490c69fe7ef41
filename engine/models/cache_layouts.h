// What each architecture keeps of a token in the cache.
#pragma once

#include "engine/cache/cache_layout.h"
#include "engine/loading/model_config.h"

namespace shoal {

// Groups of DeepSeek-V4's layout, in this order.
enum V4CacheGroup : uint8_t {
  kV4Window,      // the last sliding_window keys, as a ring
  kV4Csa,         // compressed entries of layers with ratio kOverlapRatio
  kV4CsaIndex,    // their indexer's keys
  kV4Hca,         // compressed entries of layers with ratio kLongRatio
  kV4CsaState,    // open windows: see kernels/compress.h
  kV4IndexState,  // of the indexer's keys
  kV4HcaState,
};

// `dtype`: of the rows, f32, bf16 or f16. `has_tiles`: as of the kernel table.
CacheLayout MakeCacheLayout(const ModelConfig& config, DType dtype,
                            bool has_tiles = false);

}  // namespace shoal
