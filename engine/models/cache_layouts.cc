#include "engine/models/cache_layouts.h"

namespace shoal {

CacheLayout MakeCacheLayout(const ModelConfig& config, DType dtype) {
  const auto layers = static_cast<int32_t>(config.num_hidden_layers);
  if (config.kv_lora_rank > 0) {
    CacheLayout layout = {
        {{"latent", layers, config.kv_lora_rank + config.qk_rope_head_dim,
          dtype}}};
    if (config.index_topk > 0) {
      layout.groups.push_back(
          {"index_key", layers, config.index_head_dim, dtype});
    }
    return layout;
  }
  const int64_t width = config.num_key_value_heads * config.head_dim;
  return {{{"k", layers, width, dtype}, {"v", layers, width, dtype}}};
}

}  // namespace shoal
