// Bytes a token of the published models takes in a bf16 cache, as their
// shapes say.
#include "engine/models/cache_layouts.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace shoal {
namespace {

ModelConfig Dense(int64_t layers, int64_t kv_heads, int64_t head_dim) {
  ModelConfig config;
  config.num_hidden_layers = layers;
  config.num_key_value_heads = kv_heads;
  config.head_dim = head_dim;
  return config;
}

ModelConfig Latent(int64_t layers) {
  ModelConfig config;
  config.num_hidden_layers = layers;
  config.kv_lora_rank = 512;
  config.qk_rope_head_dim = 64;
  return config;
}

ModelConfig V4(int64_t layers, std::vector<int32_t> first) {
  ModelConfig config;
  config.num_hidden_layers = layers;
  config.head_dim = 512;
  config.hc_mult = 4;
  config.sliding_window = 128;
  config.index_head_dim = 128;
  config.compress_ratios = std::move(first);
  while (static_cast<int64_t>(config.compress_ratios.size()) < layers) {
    config.compress_ratios.push_back(
        config.compress_ratios.size() % 2 == 0 ? kOverlapRatio : kLongRatio);
  }
  return config;
}

int64_t Bytes(const ModelConfig& config) {
  return MakeCacheLayout(config, DType::kBF16).BytesPerToken();
}

TEST(CacheLayoutsTest, GroupedQueries) {
  EXPECT_EQ(Bytes(Dense(30, 3, 64)), 23'040);     // SmolLM2-135M
  EXPECT_EQ(Bytes(Dense(30, 32, 128)), 491'520);  // DeepSeek-LLM-7B
  EXPECT_EQ(Bytes(Dense(28, 16, 128)), 229'376);  // DeepSeekMoE-16B
  EXPECT_EQ(Bytes(Dense(80, 8, 128)), 327'680);   // R1-Distill-Llama-70B
  EXPECT_EQ(Bytes(Dense(28, 4, 128)), 57'344);    // R1-Distill-Qwen-7B
}

TEST(CacheLayoutsTest, TilesWhereTheTableAndTheHeadsAllowThem) {
  const auto multiple = [](int64_t head_dim, DType dtype, bool has_tiles) {
    const CacheLayout layout =
        MakeCacheLayout(Dense(30, 3, head_dim), dtype, has_tiles);
    EXPECT_EQ(layout.BytesPerToken(), DTypeBytes(dtype, 30 * 2 * 3 * head_dim));
    return layout.BlockMultiple();
  };
  EXPECT_EQ(multiple(64, DType::kBF16, true), kCacheTile);
  EXPECT_EQ(multiple(64, DType::kBF16, false), 1);
  EXPECT_EQ(multiple(64, DType::kF32, true), 1);
  EXPECT_EQ(multiple(80, DType::kBF16, true), 1);
}

TEST(CacheLayoutsTest, LatentRows) {
  EXPECT_EQ(Bytes(Latent(27)), 31'104);  // V2-Lite
  EXPECT_EQ(Bytes(Latent(60)), 69'120);  // V2
  ModelConfig v3 = Latent(61);
  EXPECT_EQ(Bytes(v3), 70'272);
  v3.index_topk = 2048;  // V3.2
  v3.index_head_dim = 128;
  EXPECT_EQ(Bytes(v3), 70'272 + 15'616);
}

TEST(CacheLayoutsTest, WindowsAndCompressedEntries) {
  const ModelConfig flash = V4(43, {0, 0});
  const ModelConfig pro = V4(61, {128, 128});
  EXPECT_EQ(Bytes(flash), 6'880);
  EXPECT_EQ(Bytes(pro), 9'848);
  for (const ModelConfig& config : {flash, pro}) {
    const CacheLayout layout = MakeCacheLayout(config, DType::kBF16);
    EXPECT_EQ(layout.BlockMultiple(), 128);
    const CacheGroup& window = layout.groups[kV4Window];
    EXPECT_EQ(window.num_layers * window.rows_per_sequence * window.row_bytes(),
              config.num_hidden_layers * 128 * 512 * 2);
    EXPECT_GT(layout.BytesPerSequence(), config.num_hidden_layers * 131'072);
  }
}

}  // namespace
}  // namespace shoal
