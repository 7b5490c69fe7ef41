// What each architecture keeps of a token in the cache.
#pragma once

#include "engine/cache/cache_layout.h"
#include "engine/loading/model_config.h"

namespace shoal {

// `dtype`: of the rows, f32, bf16 or f16.
CacheLayout MakeCacheLayout(const ModelConfig& config, DType dtype);

}  // namespace shoal
