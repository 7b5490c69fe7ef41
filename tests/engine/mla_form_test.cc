// Latent attention in both its forms against the golden logits, and the choice
// between them.
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "engine/models/mla_attention.h"
#include "gtest/gtest.h"
#include "tests/engine/golden_model.h"

namespace shoal {
namespace {

class MlaFormTest : public testing::TestWithParam<
                        std::tuple<const char*, TestTable, MlaForm>> {};

TEST_P(MlaFormTest, LogitsMatchInChunks) {
  const auto& [name, table, form] = GetParam();
  const Golden golden = LoadGolden(name);
  LoadedModel model = LoadModel(GoldenPath(name), table, Precision::kExact,
                                DType::kF32, 512, form);
  const int64_t vocab_size = model.decoder->config().vocab_size;
  for (const GoldenPrompt& prompt : golden.prompts) {
    std::vector<int32_t> blocks((prompt.input_ids.size() + 15) / 16);
    std::iota(blocks.begin(), blocks.end(), 0);
    for (const int32_t chunk : {512, 61, 1}) {
      if (chunk == 1 && prompt.input_ids.size() > 64) continue;  // slow
      const auto logits = AllLogits(*model.decoder, *model.kernels,
                                    prompt.input_ids, chunk, 16, blocks);
      EXPECT_LE(MaxDifference(prompt, logits, vocab_size), golden.tolerance)
          << "chunk " << chunk;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, MlaFormTest,
    testing::Combine(testing::Values("deepseek_v2-lite",
                                     "deepseek_v2-group-limited-qlora-yarn",
                                     "deepseek_v3-noaux-yarn"),
                     testing::ValuesIn(AllTables()),
                     testing::Values(MlaForm::kAbsorbed, MlaForm::kExpanded)),
    [](const testing::TestParamInfo<MlaFormTest::ParamType>& info) {
      std::string name = std::get<0>(info.param);
      for (char& c : name) {
        if (c == '-') c = '_';
      }
      return name + "_" + std::get<1>(info.param).name() +
             (std::get<2>(info.param) == MlaForm::kAbsorbed ? "_absorbed"
                                                            : "_expanded");
    });

// DeepSeek-V3's shape: a decode step never pays for expanding its context, a
// chunk of some hundred tokens does.
TEST(MlaFormChoiceTest, LongChunksExpand) {
  ModelConfig config;
  config.kv_lora_rank = 512;
  config.qk_nope_head_dim = 128;
  config.qk_rope_head_dim = 64;
  config.v_head_dim = 128;
  for (const int64_t context : {1, 100, 4096, 100000}) {
    EXPECT_FALSE(ExpandedMlaIsCheaper(config, 1, context)) << context;
  }
  EXPECT_FALSE(ExpandedMlaIsCheaper(config, 64, 4096));
  EXPECT_TRUE(ExpandedMlaIsCheaper(config, 512, 512));
  EXPECT_TRUE(ExpandedMlaIsCheaper(config, 512, 32768));
}

}  // namespace
}  // namespace shoal
