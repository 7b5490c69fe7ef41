#include "engine/models/cache_layouts.h"

#include <algorithm>

#include "kernels/compress.h"

namespace shoal {
namespace {

CacheLayout MakeV4Layout(const ModelConfig& config, DType dtype) {
  const auto layers = static_cast<int32_t>(config.num_hidden_layers);
  const auto first = config.compress_ratios.begin();
  const auto csa =
      static_cast<int32_t>(std::count(first, first + layers, kOverlapRatio));
  const auto hca =
      static_cast<int32_t>(std::count(first, first + layers, kLongRatio));
  const int64_t width = config.head_dim;
  const int64_t index = config.index_head_dim;
  const auto window = static_cast<int32_t>(config.sliding_window);
  return {{
      {"window", layers, width, dtype, 1, window},
      {"csa", csa, width, dtype, kOverlapRatio},
      {"csa_index", csa, index, dtype, kOverlapRatio},
      {"hca", hca, width, dtype, kLongRatio},
      {"csa_state", csa, CompressStateWidth(width, true), DType::kF32, 1, 1},
      {"csa_index_state", csa, CompressStateWidth(index, true), DType::kF32, 1,
       1},
      {"hca_state", hca, CompressStateWidth(width, false), DType::kF32, 1, 1},
  }};
}

}  // namespace

CacheLayout MakeCacheLayout(const ModelConfig& config, DType dtype,
                            bool has_tiles) {
  if (config.hc_mult > 0) return MakeV4Layout(config, dtype);
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
  CacheLayout layout = {
      {{"k", layers, width, dtype}, {"v", layers, width, dtype}}};
  constexpr int64_t kTileWidth = 32;  // of heads: whole vectors of pairs
  if (has_tiles && dtype == DType::kBF16 && config.head_dim % kTileWidth == 0) {
    layout.groups[0].order = CacheOrder::kKeyTiles;
    layout.groups[1].order = CacheOrder::kValueTiles;
  }
  return layout;
}

}  // namespace shoal
