#include "engine/models/cache_layouts.h"

namespace shoal {

CacheLayout MakeCacheLayout(const ModelConfig& config, DType dtype) {
  const int64_t width = config.num_key_value_heads * config.head_dim;
  const auto layers = static_cast<int32_t>(config.num_hidden_layers);
  return {{{"k", layers, width, dtype}, {"v", layers, width, dtype}}};
}

}  // namespace shoal
