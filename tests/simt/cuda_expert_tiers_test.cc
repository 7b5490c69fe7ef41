// Golden models with some experts on the CUDA kernel table and the others on
// the CPU's.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_table.h"
#include "tests/engine/golden_model.h"

namespace shoal {
namespace {

class CudaExpertTiersTest : public testing::TestWithParam<const char*> {};

// Computed on the host, shed to it, carried over, and moved between the steps.
TEST_P(CudaExpertTiersTest, LogitsMatch) {
  const Golden golden = LoadGolden(GetParam());
  const std::string path = GoldenPath(GetParam());
  const auto checkpoint = LoadCheckpoint(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto host = MakeCpuKernelTable(RunnableIsas().back(), 2);
  CudaOptions cuda;
  cuda.chunk_bytes = 1 << 20;
  auto kernels = MakeCudaKernelTable(cuda);
  ASSERT_TRUE(kernels.ok()) << kernels.status();
  const ModelConfig& config = (*checkpoint)->config();
  const ExpertSizes sizes = SizesOfExperts(**checkpoint, config);
  ExpertTierOptions experts;
  experts.host = host.get();
  experts.device_bytes = sizes.total_bytes() / 3;
  experts.capacity_factor = 1;  // a whole prompt has more for some
  // Experts of one token stay, those of several are carried.
  const auto weights = static_cast<double>(3 * config.hidden_size *
                                           config.moe_intermediate_size);
  experts.speeds = {.host_bytes = 1e12,
                    .host_macs = 1.5 * weights,
                    .link_bytes = static_cast<double>(sizes.bytes(0))};
  constexpr int32_t kMaxTokens = 512;
  const LoadedModel model =
      LoadModel(path, *std::move(kernels), Precision::kExact, DType::kF32,
                kMaxTokens, MlaForm::kAuto, experts);
  const GoldenPrompt& prompt = *std::find_if(
      golden.prompts.begin(), golden.prompts.end(),
      [](const GoldenPrompt& p) { return p.input_ids.size() >= 12; });
  const int32_t block_size = model.decoder->cache_layout().BlockMultiple();
  std::vector<int32_t> blocks(prompt.input_ids.size() / block_size + 1);
  std::iota(blocks.begin(), blocks.end(), 0);
  for (const int32_t chunk : {kMaxTokens, 1}) {
    const auto logits = AllLogits(*model.decoder, *model.kernels,
                                  prompt.input_ids, chunk, block_size, blocks);
    EXPECT_LE(MaxDifference(prompt, logits, model.decoder->config().vocab_size),
              golden.tolerance)
        << "chunk " << chunk;
  }
  const ExpertStats stats = model.decoder->expert_stats();
  EXPECT_GT(stats.device_choices, 0u);
  EXPECT_GT(stats.host_choices, 0u);
  EXPECT_GT(stats.streamed_choices, 0u);
}

INSTANTIATE_TEST_SUITE_P(All, CudaExpertTiersTest,
                         testing::Values("deepseek_v2-lite",
                                         "deepseek_v4-fp8-fp4experts"),
                         [](const testing::TestParamInfo<const char*>& info) {
                           std::string name = info.param;
                           for (char& c : name) {
                             if (c == '-') c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace shoal
