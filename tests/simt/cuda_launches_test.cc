// How many kernels a decode step launches: what a small batch on a GPU spends
// its time on.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_table.h"
#include "tests/engine/golden_model.h"
#include "tests/simt/machine.h"

namespace shoal {
namespace {

struct LaunchCase {
  const char* model;
  int attention, dense, experts;  // launches of a layer's parts, norms included
};

class CudaLaunchesTest : public testing::TestWithParam<LaunchCase> {};

TEST_P(CudaLaunchesTest, ADecodeStepHasFew) {
  const LaunchCase& c = GetParam();
  auto kernels = MakeCudaKernelTable();
  ASSERT_TRUE(kernels.ok()) << kernels.status();
  LoadedModel model =
      LoadModel(GoldenPath(c.model), *std::move(kernels), Precision::kFast,
                DType::kBF16, /*max_tokens_per_step=*/64);
  const Golden golden = LoadGolden(c.model);
  const int32_t block_size = model.decoder->cache_layout().BlockMultiple();
  const auto launches = [&](int64_t tokens) {
    std::vector<int32_t> ids = golden.prompts.front().input_ids;
    ids.resize(tokens, ids.front());
    std::vector<int32_t> blocks(ids.size() / block_size + 1);
    std::iota(blocks.begin(), blocks.end(), 0);
    const int64_t before = simt::NumLaunches();
    AllLogits(*model.decoder, *model.kernels, ids, /*chunk=*/1, block_size,
              blocks);
    return simt::NumLaunches() - before;
  };
  const ModelConfig& config = model.decoder->config();
  const int64_t dense_layers = config.n_routed_experts == 0
                                   ? config.num_hidden_layers
                                   : config.first_k_dense_replace;
  constexpr int64_t kOfStep = 4;  // embedding, norm and logits of chosen rows
  EXPECT_EQ(launches(6) - launches(5),
            kOfStep + config.num_hidden_layers * c.attention +
                dense_layers * c.dense +
                (config.num_hidden_layers - dense_layers) * c.experts);
}

// Contexts are of one chunk: longer ones cost one launch more, to merge chunks.
INSTANTIATE_TEST_SUITE_P(
    All, CudaLaunchesTest,
    testing::Values(LaunchCase{"qwen3", 5, 3, 0},
                    LaunchCase{"deepseek-v1-moe", 5, 3, 4},
                    LaunchCase{"deepseek_v2-lite", 7, 3, 4},
                    LaunchCase{"deepseek_v3-noaux-yarn", 9, 3, 4}),
    [](const testing::TestParamInfo<LaunchCase>& info) {
      std::string name = info.param.model;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

}  // namespace
}  // namespace shoal
