// The golden models on the CUDA kernel table, over the shim or over a GPU: one
// prompt of each whole and in chunks over shuffled blocks, and the greedy
// tokens of two sequences side by side.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "kernels/cuda/cuda_table.h"
#include "tests/engine/golden_model.h"
#include "tests/engine/token_reader.h"

namespace shoal {
namespace {

constexpr int32_t kMaxTokens = 512;
constexpr size_t kGreedyTokens = 6;  // the shim takes its time

const char* const kFixtures[] = {
    "llama-gqa",
    "llama-tied-rope-llama3",
    "qwen2",
    "qwen3",
    "deepseek-v1-moe",
    "deepseek_v2-lite",
    "deepseek_v2-group-limited-qlora-yarn",
    "deepseek_v3-noaux-yarn",
    "gguf/deepseek_v3-mla.gguf",
    "deepseek_v3-fp8",
    "deepseek_v31-fp8-ue8m0",
    "deepseek_v32",
    "deepseek_v4",
    "deepseek_v4-fp8-fp4experts",
};

class CudaGoldenTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string name = GetParam();
    golden_ = LoadGolden(
        name == "gguf/deepseek_v3-mla.gguf" ? "deepseek_v3-noaux-yarn" : name);
    std::sort(golden_.prompts.begin(), golden_.prompts.end(),
              [](const GoldenPrompt& a, const GoldenPrompt& b) {
                return a.input_ids.size() < b.input_ids.size();
              });
    Load(MlaForm::kAuto);
  }

  void Load(MlaForm form) {
    CudaOptions options;
    options.chunk_bytes = 1 << 20;
    auto kernels = MakeCudaKernelTable(options);
    ASSERT_TRUE(kernels.ok()) << kernels.status();
    model_ = LoadModel(GoldenPath(GetParam()), *std::move(kernels),
                       Precision::kExact, DType::kF32, kMaxTokens, form);
  }

  void ExpectLogits(int32_t chunk, int32_t wanted_block_size) {
    const GoldenPrompt& prompt = golden_.prompts.front();
    const int32_t multiple = model_.decoder->cache_layout().BlockMultiple();
    const int32_t block_size =
        (wanted_block_size + multiple - 1) / multiple * multiple;
    std::vector<int32_t> blocks((prompt.input_ids.size() + block_size - 1) /
                                block_size);
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(chunk));
    const auto logits = AllLogits(*model_.decoder, *model_.kernels,
                                  prompt.input_ids, chunk, block_size, blocks);
    EXPECT_LE(
        MaxDifference(prompt, logits, model_.decoder->config().vocab_size),
        golden_.tolerance)
        << "chunk " << chunk;
  }

  Golden golden_;
  LoadedModel model_;
};

TEST_P(CudaGoldenTest, Logits) {
  ExpectLogits(kMaxTokens, 16);
  ExpectLogits(7, 5);
}

TEST_P(CudaGoldenTest, LogitsInBothFormsOfLatentAttention) {
  for (const MlaForm form : {MlaForm::kAbsorbed, MlaForm::kExpanded}) {
    Load(form);
    ExpectLogits(9, 16);
  }
}

TEST_P(CudaGoldenTest, GreedyTokensSideBySide) {
  EngineOptions options;
  options.max_num_batched_tokens = kMaxTokens;
  options.kv_cache_bytes = 4 << 20;
  options.max_num_seqs = 2;
  auto engine =
      MakeEngine(std::move(model_.decoder), options, *model_.kernels, nullptr);
  ASSERT_TRUE(engine.ok()) << engine.status();
  std::vector<std::unique_ptr<EngineStream>> streams;
  const size_t count = std::min<size_t>(2, golden_.prompts.size());
  for (size_t i = 0; i < count; ++i) {
    std::vector<int32_t>& greedy = golden_.prompts[i].greedy;
    if (greedy.size() > kGreedyTokens) greedy.resize(kGreedyTokens);
    auto stream = (*engine)->Submit(
        GreedyRequest(golden_.prompts[i].input_ids, greedy.size()));
    ASSERT_TRUE(stream.ok()) << stream.status();
    streams.push_back(*std::move(stream));
  }
  for (size_t i = 0; i < count; ++i) {
    EXPECT_EQ(ReadTokens(*streams[i]), golden_.prompts[i].greedy);
  }
}

// Tensor cores and a bf16 cache: close row by row, except where rounding makes
// a router choose otherwise.
class CudaFastGoldenTest : public CudaGoldenTest {
 protected:
  const GoldenPrompt& prompt() const {
    return golden_.prompts[golden_.prompts.size() / 2];
  }

  std::vector<float> FastLogits(const CudaOptions& options) {
    auto kernels = MakeCudaKernelTable(options);
    EXPECT_TRUE(kernels.ok()) << kernels.status();
    const LoadedModel fast =
        LoadModel(GoldenPath(GetParam()), *std::move(kernels), Precision::kFast,
                  DType::kBF16, kMaxTokens);
    const int32_t block_size = fast.decoder->cache_layout().BlockMultiple();
    std::vector<int32_t> blocks(prompt().input_ids.size() / block_size + 1);
    std::iota(blocks.begin(), blocks.end(), 0);
    return AllLogits(*fast.decoder, *fast.kernels, prompt().input_ids,
                     kMaxTokens, block_size, blocks);
  }

  void ExpectClose(const std::vector<float>& logits) const {
    const size_t num_positions = prompt().positions.size();
    const size_t vocab_size = prompt().logits.size() / num_positions;
    size_t close = 0;
    for (size_t k = 0; k < num_positions; ++k) {
      const float* a = logits.data() + prompt().positions[k] * vocab_size;
      const float* b = prompt().logits.data() + k * vocab_size;
      const double ab = std::inner_product(a, a + vocab_size, b, 0.0);
      const double aa = std::inner_product(a, a + vocab_size, a, 0.0);
      const double bb = std::inner_product(b, b + vocab_size, b, 0.0);
      close += ab >= 0.99 * std::sqrt(aa * bb);
    }
    EXPECT_GE(close, num_positions * 9 / 10);
  }
};

TEST_P(CudaFastGoldenTest, LogitsStayClose) {
  const std::vector<float> logits = FastLogits({});
  ExpectClose(logits);
  CudaOptions options;
  options.batch_invariant = false;
  const std::vector<float> by_library = FastLogits(options);
  ExpectClose(by_library);
  EXPECT_NE(by_library, logits);  // sums in another order
}

INSTANTIATE_TEST_SUITE_P(All, CudaFastGoldenTest,
                         testing::Values("qwen3", "deepseek_v2-lite",
                                         "deepseek_v3-fp8"));

// Long enough for indexers and compressed entries to matter.
class CudaLongGoldenTest : public CudaGoldenTest {};

TEST_P(CudaLongGoldenTest, Logits) {
  std::swap(golden_.prompts.front(), golden_.prompts.back());
  ExpectLogits(131, 16);
}

INSTANTIATE_TEST_SUITE_P(All, CudaLongGoldenTest,
                         testing::Values("deepseek_v32", "deepseek_v4"));
INSTANTIATE_TEST_SUITE_P(All, CudaGoldenTest, testing::ValuesIn(kFixtures),
                         [](const testing::TestParamInfo<const char*>& info) {
                           std::string name = info.param;
                           for (char& c : name) {
                             if (std::isalnum(c) == 0) c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace shoal
