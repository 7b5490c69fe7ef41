// The golden models' logits and greedy tokens on every instruction set, and on
// memory that is not the host's.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <tuple>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/engine.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/golden_model.h"
#include "tests/engine/token_reader.h"

namespace shoal {
namespace {

constexpr int32_t kMaxTokens = 512;

struct Fixture {
  const char* name;     // of the golden folder
  const char* weights;  // another file with the same weights, or nullptr
};
constexpr Fixture kFixtures[] = {
    {"llama-gqa", nullptr},
    {"llama-tied-rope-llama3", nullptr},
    {"llama-tied-rope-llama3", "gguf/llama-tied-bf16.gguf"},
    {"qwen2", nullptr},
    {"qwen3", nullptr},
    {"qwen3", "gguf/qwen3-bf16.gguf"},
    {"qwen3-yarn", nullptr},
    {"deepseek-v1-moe", nullptr},
    {"deepseek_v2-lite", nullptr},
    {"deepseek_v2-group-limited-qlora-yarn", nullptr},
    {"deepseek_v3-noaux-yarn", nullptr},
    {"deepseek_v3-noaux-yarn", "gguf/deepseek_v3-kvb.gguf"},
    {"deepseek_v3-noaux-yarn", "gguf/deepseek_v3-mla.gguf"},
    {"deepseek_v3-fp8", nullptr},
    {"deepseek_v31-fp8-ue8m0", nullptr},
    {"deepseek_v32", nullptr},
    {"deepseek_v4", nullptr},
    {"deepseek_v4-clamp-window128", nullptr},
    {"deepseek_v4-fp8-fp4experts", nullptr},
};

class GoldenTest
    : public testing::TestWithParam<std::tuple<Fixture, TestTable>> {
 protected:
  void SetUp() override {
    const auto& [fixture, table] = GetParam();
    golden_ = LoadGolden(fixture.name);
    model_ = LoadModel(
        GoldenPath(fixture.weights != nullptr ? fixture.weights : fixture.name),
        table, Precision::kExact, DType::kF32, kMaxTokens);
  }

  double Difference(const GoldenPrompt& prompt,
                    const std::vector<float>& logits) const {
    return MaxDifference(prompt, logits, model_.decoder->config().vocab_size);
  }

  // The next size that the model's cache can have.
  int32_t BlockSize(int32_t wanted) const {
    const int32_t multiple = model_.decoder->cache_layout().BlockMultiple();
    return (wanted + multiple - 1) / multiple * multiple;
  }

  static std::vector<int32_t> Blocks(size_t num_tokens, int32_t block_size) {
    std::vector<int32_t> blocks((num_tokens + block_size - 1) / block_size);
    std::iota(blocks.begin(), blocks.end(), 0);
    return blocks;
  }

  std::unique_ptr<Engine> MakeGoldenEngine(EngineOptions options) {
    options.max_num_batched_tokens =
        std::min(options.max_num_batched_tokens, kMaxTokens);
    if (options.kv_cache_bytes == 0) options.kv_cache_bytes = 64 << 20;
    auto engine = MakeEngine(std::move(model_.decoder), options,
                             *model_.kernels, nullptr);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }

  static EngineRequest Greedy(const GoldenPrompt& prompt) {
    return GreedyRequest(prompt.input_ids, prompt.greedy.size());
  }

  Golden golden_;
  LoadedModel model_;
};

TEST_P(GoldenTest, LogitsMatchWhole) {
  for (const GoldenPrompt& prompt : golden_.prompts) {
    const int32_t block_size = BlockSize(16);
    const auto logits = AllLogits(*model_.decoder, *model_.kernels,
                                  prompt.input_ids, kMaxTokens, block_size,
                                  Blocks(prompt.input_ids.size(), block_size));
    EXPECT_LE(Difference(prompt, logits), golden_.tolerance);
  }
}

TEST_P(GoldenTest, LogitsMatchInEveryChunkSizeOverShuffledBlocks) {
  const GoldenPrompt& prompt = golden_.prompts.front();
  std::mt19937 random(7);
  // Every size over one model, those at the edges over the others.
  const bool every = std::string(std::get<0>(GetParam()).name) == "llama-gqa";
  for (int32_t chunk = 1; chunk <= 64; ++chunk) {
    const bool edge = chunk <= 3 || chunk % 16 <= 1 || chunk % 16 == 15;
    if (!every && !edge) continue;
    const int32_t block_size = BlockSize(1 + chunk % 17);
    std::vector<int32_t> blocks = Blocks(prompt.input_ids.size(), block_size);
    std::shuffle(blocks.begin(), blocks.end(), random);
    const auto logits = AllLogits(*model_.decoder, *model_.kernels,
                                  prompt.input_ids, chunk, block_size, blocks);
    EXPECT_LE(Difference(prompt, logits), golden_.tolerance)
        << "chunk " << chunk;
  }
}

// Long enough for YaRN, indexers and compressed entries to matter in a chunk
// that is not the first.
TEST_P(GoldenTest, LogitsMatchInChunksOfTheLongestPrompt) {
  const GoldenPrompt& prompt =
      *std::max_element(golden_.prompts.begin(), golden_.prompts.end(),
                        [](const GoldenPrompt& a, const GoldenPrompt& b) {
                          return a.input_ids.size() < b.input_ids.size();
                        });
  const int32_t block_size = BlockSize(16);
  for (const int32_t chunk : {5, 50, 131}) {
    const auto logits =
        AllLogits(*model_.decoder, *model_.kernels, prompt.input_ids, chunk,
                  block_size, Blocks(prompt.input_ids.size(), block_size));
    EXPECT_LE(Difference(prompt, logits), golden_.tolerance)
        << "chunk " << chunk;
  }
}

// 16-bit activations and cache: close row by row, except where rounding makes
// a router or an indexer choose otherwise.
TEST_P(GoldenTest, RoundedActivationsStayClose) {
  const auto& [fixture, table] = GetParam();
  const LoadedModel fast = LoadModel(
      GoldenPath(fixture.weights != nullptr ? fixture.weights : fixture.name),
      table, Precision::kFast, DType::kBF16, kMaxTokens);
  const ModelConfig& config = fast.decoder->config();
  const int64_t vocab_size = config.vocab_size;
  int rows = 0, close = 0;
  for (const GoldenPrompt& prompt : golden_.prompts) {
    const int32_t block_size = BlockSize(16);
    const auto logits =
        AllLogits(*fast.decoder, *fast.kernels, prompt.input_ids, kMaxTokens,
                  block_size, Blocks(prompt.input_ids.size(), block_size));
    for (size_t k = 0; k < prompt.positions.size(); ++k) {
      const float* a = logits.data() + prompt.positions[k] * vocab_size;
      const float* b = prompt.logits.data() + k * vocab_size;
      double ab = 0, aa = 0, bb = 0;
      for (int64_t v = 0; v < vocab_size; ++v) {
        ab += double{a[v]} * b[v];
        aa += double{a[v]} * a[v];
        bb += double{b[v]} * b[v];
      }
      ++rows;
      if (ab / std::sqrt(aa * bb) >= 0.99) ++close;
    }
  }
  // Random weights sit close to many borders: the share of rows without a
  // choice that differs is smaller the more choices there are.
  const int expected = config.index_topk > 0         ? rows / 2
                       : config.n_routed_experts > 0 ? rows * 9 / 10
                                                     : rows;
  EXPECT_GE(close, expected) << "of " << rows;
}

TEST_P(GoldenTest, GreedyTokensBeside63Others) {
  const auto engine = MakeGoldenEngine({});
  std::mt19937 random(11);
  const auto vocab_size = static_cast<int32_t>(engine->config().vocab_size);
  std::vector<std::unique_ptr<EngineStream>> others;
  for (int i = 0; i < 63; ++i) {
    EngineRequest other;
    other.prompt_token_ids.resize(1 + random() % 40);
    for (int32_t& id : other.prompt_token_ids) id = random() % vocab_size;
    other.sampling.max_tokens = 1 + random() % 40;
    other.sampling.seed = i;
    other.sampling.ignore_eos = true;
    auto stream = engine->Submit(std::move(other));
    ASSERT_TRUE(stream.ok()) << stream.status();
    others.push_back(*std::move(stream));
  }
  std::vector<std::unique_ptr<EngineStream>> streams;
  for (const GoldenPrompt& prompt : golden_.prompts) {
    auto stream = engine->Submit(Greedy(prompt));
    ASSERT_TRUE(stream.ok()) << stream.status();
    streams.push_back(*std::move(stream));
  }
  for (size_t i = 0; i < streams.size(); ++i) {
    EXPECT_EQ(ReadTokens(*streams[i]), golden_.prompts[i].greedy);
  }
  for (auto& other : others) ReadTokens(*other);
}

// What the engine makes of a model in its other ways. Not on every table: what
// they compute with is the same.
class GoldenEngineTest : public GoldenTest {};

TEST_P(GoldenEngineTest, GreedyTokensAlone) {
  const auto engine = MakeGoldenEngine({});
  for (const GoldenPrompt& prompt : golden_.prompts) {
    auto stream = engine->Submit(Greedy(prompt));
    ASSERT_TRUE(stream.ok()) << stream.status();
    EXPECT_EQ(ReadTokens(**stream), prompt.greedy);
  }
}

// So few blocks that sequences preempt each other and are computed again.
TEST_P(GoldenEngineTest, GreedyTokensAfterPreemption) {
  size_t longest = 0;
  for (const GoldenPrompt& prompt : golden_.prompts) {
    longest = std::max(longest, prompt.input_ids.size() + prompt.greedy.size());
  }
  EngineOptions options;
  options.block_size = BlockSize(4);
  options.max_num_seqs = 8;
  const CacheLayout& layout = model_.decoder->cache_layout();
  const auto blocks = static_cast<int64_t>(longest + 24) / options.block_size;
  options.kv_cache_bytes = (blocks + 1) * layout.BytesOf(options.block_size) +
                           options.max_num_seqs * layout.BytesPerSequence();
  const auto engine = MakeGoldenEngine(options);
  std::vector<std::unique_ptr<EngineStream>> streams;
  for (int repeat = 0; repeat < 3; ++repeat) {
    for (const GoldenPrompt& prompt : golden_.prompts) {
      auto stream = engine->Submit(Greedy(prompt));
      ASSERT_TRUE(stream.ok()) << stream.status();
      streams.push_back(*std::move(stream));
    }
  }
  for (size_t i = 0; i < streams.size(); ++i) {
    EXPECT_EQ(ReadTokens(*streams[i]),
              golden_.prompts[i % golden_.prompts.size()].greedy);
  }
}

TEST_P(GoldenEngineTest, GreedyTokensWithPrefixReuse) {
  EngineOptions options;
  options.block_size = 4;
  const bool reuses = model_.decoder->cache_layout().BytesPerSequence() == 0;
  const auto engine = MakeGoldenEngine(options);
  for (const GoldenPrompt& prompt : golden_.prompts) {
    for (int repeat = 0; repeat < 2; ++repeat) {
      auto stream = engine->Submit(Greedy(prompt));
      ASSERT_TRUE(stream.ok()) << stream.status();
      int32_t cached = 0;
      EXPECT_EQ(ReadTokens(**stream, &cached), prompt.greedy);
      if (repeat == 1) {
        EXPECT_EQ(cached, reuses ? (prompt.input_ids.size() - 1) / 4 * 4 : 0);
      }
    }
  }
}

std::string CaseName(
    const testing::TestParamInfo<GoldenTest::ParamType>& info) {
  const Fixture& fixture = std::get<0>(info.param);
  std::string name = fixture.name;
  if (fixture.weights != nullptr) {
    absl::StrAppend(&name, "_from_", fixture.weights);
  }
  absl::StrAppend(&name, "_", std::get<1>(info.param).name());
  for (char& c : name) {
    if (!absl::ascii_isalnum(c)) c = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTest,
                         testing::Combine(testing::ValuesIn(kFixtures),
                                          testing::ValuesIn(AllTables())),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(All, GoldenEngineTest,
                         testing::Combine(testing::ValuesIn(kFixtures),
                                          testing::ValuesIn(EngineTables())),
                         CaseName);

}  // namespace
}  // namespace shoal
