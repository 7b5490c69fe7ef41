// Golden models with their experts in two tiers: a checked table, whose memory
// is not the host's, stands for the device.
#include "engine/experts/expert_tiers.h"

#include <gmock/gmock.h>

#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "tests/engine/checked_table.h"
#include "tests/engine/golden_model.h"
#include "tests/engine/token_reader.h"

namespace shoal {
namespace {

constexpr int32_t kMaxTokens = 512;
constexpr TierSpeeds kNeverStreams = {
    .host_bytes = 1e12, .host_macs = 1e12, .link_bytes = 1};
constexpr TierSpeeds kAlwaysStreams = {
    .host_bytes = 1, .host_macs = 1, .link_bytes = 1e12};
// Experts of one token stay, those of several are carried.
constexpr TierSpeeds kStreamsSome = {
    .host_bytes = 1e12, .host_macs = 1e6, .link_bytes = 1e6};

// What the device was asked for, in order.
using OpLog = std::vector<std::string>;

std::unique_ptr<KernelTable> MakeHost() {
  return MakeCpuKernelTable(RunnableIsas().back(), 2);
}

class LoggedDevice : public CheckedTable {
 public:
  explicit LoggedDevice(OpLog& log) : CheckedTable(MakeHost()), log_(log) {}

  void Upload(const void* host, int64_t bytes, void* device) override {
    log_.emplace_back("upload");
    CheckedTable::Upload(host, bytes, device);
  }
  absl::Status Download(const void* device, int64_t bytes,
                        void* host) override {
    log_.emplace_back("download");
    return CheckedTable::Download(device, bytes, host);
  }
  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(
      const WeightView& weight, Precision precision) override {
    if (fails_to_pack) return absl::ResourceExhaustedError("full");
    return CheckedTable::Pack(weight, precision);
  }
  void MoeExperts(const MoeExpertsParams& params) override {
    log_.emplace_back(params.shared.is_here() ? "experts, shared" : "experts");
    CheckedTable::MoeExperts(params);
  }
  void Add(const float* in, int64_t n, float* out) override {
    log_.emplace_back("add");
    CheckedTable::Add(in, n, out);
  }

  bool fails_to_pack = false;

 private:
  OpLog& log_;
};

class TiersTest : public testing::Test {
 protected:
  // A model whose device holds `share` of the bytes of its experts.
  void Load(const std::string& name, double share, const TierSpeeds& speeds,
            PlacementMode mode = PlacementMode::kStatic,
            double capacity_factor = 0) {
    golden_ = LoadGolden(name);
    const auto checkpoint = LoadCheckpoint(GoldenPath(name));
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    sizes_ = SizesOfExperts(**checkpoint, (*checkpoint)->config());
    if (host_ == nullptr) host_ = MakeHost();
    ExpertTierOptions experts;
    experts.host = host_.get();
    experts.device_bytes =
        static_cast<int64_t>(share * static_cast<double>(sizes_.total_bytes()));
    experts.mode = mode;
    experts.speeds = speeds;
    experts.capacity_factor = capacity_factor;
    auto device = std::make_unique<LoggedDevice>(log_);
    device_ = device.get();
    model_ = LoadModel(GoldenPath(name), std::move(device), Precision::kExact,
                       DType::kF32, kMaxTokens, MlaForm::kAuto, experts);
    log_.clear();
  }

  // Once each, somewhere.
  void ExpectEveryChoiceComputed() {
    uint64_t choices = 0;
    for (int64_t i = 0; i < model_.decoder->config().num_hidden_layers; ++i) {
      for (const uint64_t load : model_.decoder->expert_load(i)) {
        choices += load;
      }
    }
    const ExpertStats s = stats();
    EXPECT_EQ(s.device_choices + s.host_choices + s.streamed_choices, choices);
  }

  void ExpectGoldenLogits(int32_t chunk = kMaxTokens) {
    for (const GoldenPrompt& prompt : golden_.prompts) {
      EXPECT_LE(MaxDifference(prompt, Logits(prompt.input_ids, chunk),
                              model_.decoder->config().vocab_size),
                golden_.tolerance);
    }
  }

  std::vector<float> Logits(const std::vector<int32_t>& tokens, int32_t chunk) {
    const int32_t block_size = model_.decoder->cache_layout().BlockMultiple();
    std::vector<int32_t> blocks(tokens.size() / block_size + 1);
    std::iota(blocks.begin(), blocks.end(), 0);
    return AllLogits(*model_.decoder, *model_.kernels, tokens, chunk,
                     block_size, blocks);
  }

  // Takes the model.
  std::unique_ptr<Engine> Start() {
    EngineOptions options;
    options.max_num_batched_tokens = 64;
    options.kv_cache_bytes = 64 << 20;
    auto engine = MakeEngine(std::move(model_.decoder), options,
                             *model_.kernels, nullptr);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }

  static EngineRequest Greedy(const GoldenPrompt& prompt) {
    return GreedyRequest(prompt.input_ids, prompt.greedy.size());
  }

  ExpertStats stats() const { return model_.decoder->expert_stats(); }

  OpLog log_;
  Golden golden_;
  ExpertSizes sizes_;
  std::unique_ptr<KernelTable> host_;
  LoadedModel model_;
  LoggedDevice* device_ = nullptr;
};

class SplitTest : public TiersTest,
                  public testing::WithParamInterface<
                      std::tuple<const char*, double, TierSpeeds>> {};

TEST_P(SplitTest, LogitsMatch) {
  const auto& [name, share, speeds] = GetParam();
  Load(name, share, speeds);
  ExpectGoldenLogits();
  ExpectGoldenLogits(7);
  const ExpertStats s = stats();
  EXPECT_EQ(s.on_device + s.on_host, sizes_.count());
  EXPECT_EQ(s.on_device == 0, share == 0);
  EXPECT_EQ(s.on_host == 0, share == 1);
  ExpectEveryChoiceComputed();
  if (speeds.host_bytes > speeds.link_bytes && speeds.host_macs > 1e6) {
    EXPECT_EQ(s.streamed_choices, 0u);
  }
}

TEST_P(SplitTest, GreedyTokensMatch) {
  const auto& [name, share, speeds] = GetParam();
  Load(name, share, speeds, PlacementMode::kDynamic);
  const auto engine = Start();
  std::vector<std::unique_ptr<EngineStream>> streams;
  for (const GoldenPrompt& prompt : golden_.prompts) {
    auto stream = engine->Submit(Greedy(prompt));
    ASSERT_TRUE(stream.ok()) << stream.status();
    streams.push_back(*std::move(stream));
  }
  for (size_t i = 0; i < streams.size(); ++i) {
    EXPECT_EQ(ReadTokens(*streams[i]), golden_.prompts[i].greedy);
  }
}

std::string SplitName(
    const testing::TestParamInfo<SplitTest::ParamType>& info) {
  const auto& [name, share, speeds] = info.param;
  std::string text = absl::StrCat(name, "_", static_cast<int>(100 * share), "_",
                                  speeds.host_bytes == 1   ? "streams"
                                  : speeds.link_bytes == 1 ? "computes"
                                                           : "both");
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

INSTANTIATE_TEST_SUITE_P(
    Models, SplitTest,
    testing::Combine(testing::Values("deepseek-v1-moe",
                                     "deepseek_v3-noaux-yarn", "deepseek_v4",
                                     "deepseek_v4-fp8-fp4experts"),
                     testing::Values(0.3), testing::Values(kStreamsSome)),
    SplitName);
INSTANTIATE_TEST_SUITE_P(
    Splits, SplitTest,
    testing::Combine(testing::Values("deepseek_v2-lite", "deepseek_v3-fp8"),
                     testing::Values(0.0, 0.3, 0.8, 1.0),
                     testing::Values(kNeverStreams, kStreamsSome,
                                     kAlwaysStreams)),
    SplitName);

TEST_F(TiersTest, ExpertsThatAreChosenMoveToTheDevice) {
  for (const PlacementMode mode :
       {PlacementMode::kDynamic, PlacementMode::kFrequency}) {
    Load("deepseek_v2-lite", 0.4, kNeverStreams, mode);
    const int64_t budget = stats().device_bytes;
    // One token again and again: few experts are all its load.
    std::vector<int32_t> tokens(200, golden_.prompts[0].input_ids[0]);
    const std::vector<float> before = Logits(tokens, 1);
    const ExpertStats first = stats();
    EXPECT_GT(first.moved_bytes, 0u);
    EXPECT_GT(first.stall_seconds, 0);
    EXPECT_LE(first.device_bytes, budget);
    Logits(tokens, 1);
    const ExpertStats second = stats();
    const auto hit_rate = [](uint64_t device, uint64_t host) {
      return static_cast<double>(device) / static_cast<double>(device + host);
    };
    EXPECT_GT(hit_rate(second.device_choices - first.device_choices,
                       second.host_choices - first.host_choices),
              0.9);
    EXPECT_GE(second.imbalance[2], second.imbalance[0]);
    EXPECT_GT(second.imbalance[2], 0.5);
    // The weights that came are those that were meant.
    ExpectGoldenLogits();
  }
}

TEST_F(TiersTest, StaticPlacementStays) {
  Load("deepseek_v2-lite", 0.4, kNeverStreams);
  Logits(std::vector<int32_t>(100, 3), 1);
  EXPECT_EQ(stats().moved_bytes, 0u);
}

// What is too much for an expert on the device goes to its copy on the host,
// and nothing is dropped; whether the device has all experts or some.
TEST_F(TiersTest, OverfullExpertsShedTokensToTheHost) {
  for (const double share : {1.0, 0.5}) {
    for (const double factor : {0.25, 1.0}) {
      Load("deepseek_v2-lite", share, kStreamsSome, PlacementMode::kStatic,
           factor);
      ExpectGoldenLogits();
      const ExpertStats whole = stats();
      EXPECT_GT(whole.device_choices, 0u);
      EXPECT_GT(whole.host_choices, 0u);
      ExpectEveryChoiceComputed();
      ExpectGoldenLogits(7);
      ExpectEveryChoiceComputed();
    }
  }
  // One token chooses an expert once.
  const uint64_t before = stats().host_choices;
  Load("deepseek_v2-lite", 1, kNeverStreams, PlacementMode::kDynamic, 1);
  Logits(golden_.prompts[0].input_ids, 1);
  EXPECT_GT(before, 0u);
  EXPECT_EQ(stats().host_choices, 0u);
}

// Nothing waits for the device between the queueing of its experts and the end
// of the host's, whose result is what comes up next; the shared experts are
// queued before the host begins.
TEST_F(TiersTest, TheDeviceHasWorkWhileTheHostComputes) {
  Load("deepseek_v2-lite", 0.4, kNeverStreams);
  std::vector<int32_t> tokens(60);  // so many that all layers have both
  std::iota(tokens.begin(), tokens.end(), 0);
  Logits(tokens, kMaxTokens);
  int layers = 0;
  for (size_t i = 0; i < log_.size(); ++i) {
    if (log_[i] != "experts, shared") continue;
    ++layers;
    ASSERT_LT(i + 2, log_.size());
    EXPECT_EQ(log_[i + 1], "upload");  // of what the host computed meanwhile
    EXPECT_EQ(log_[i + 2], "add");
  }
  EXPECT_EQ(layers, static_cast<int>(sizes_.layer_bytes.size()));
}

TEST_F(TiersTest, AStepWithoutTheHostCopiesOnlyTheChoice) {
  Load("deepseek_v2-lite", 0.9, kNeverStreams, PlacementMode::kDynamic);
  const std::vector<int32_t> tokens(200, golden_.prompts[0].input_ids[0]);
  Logits(tokens, 1);  // brings what this token wants
  const uint64_t before = stats().host_choices;
  log_.clear();
  Logits({tokens[0]}, 1);
  ASSERT_EQ(stats().host_choices, before);
  EXPECT_THAT(log_, testing::Not(testing::Contains("add")));
}

TEST_F(TiersTest, WhatFindsNoMemoryOnTheDeviceStaysOnTheHost) {
  for (const TierSpeeds& speeds : {kAlwaysStreams, kNeverStreams}) {
    Load("deepseek_v2-lite", 0.4, speeds, PlacementMode::kDynamic);
    device_->fails_to_pack = true;
    ExpectGoldenLogits(1);
    EXPECT_EQ(stats().moved_bytes, 0u);
    EXPECT_EQ(stats().streamed_choices, 0u);
    EXPECT_GT(stats().host_choices, 0u);
  }
}

// Wherever in a step the device fails, in its experts' copies included.
TEST_F(TiersTest, AFaultOfTheDeviceEndsTheStreams) {
  for (int64_t ops = 0; ops < 90; ops += 9) {
    Load("deepseek_v2-lite", 0.4, kStreamsSome, PlacementMode::kDynamic);
    device_->FailAfter(ops);
    const auto engine = Start();
    auto stream = engine->Submit(Greedy(golden_.prompts[0]));
    ASSERT_TRUE(stream.ok()) << stream.status();
    const TokenEvent last = ReadEvents(**stream).back();
    EXPECT_EQ(last.finish_reason, FinishReason::kError) << ops;
    EXPECT_EQ(last.status.code(), absl::StatusCode::kInternal);
  }
}

TEST_F(TiersTest, SpeedsAreMeasured) {
  const auto checkpoint = LoadCheckpoint(GoldenPath("deepseek_v2-lite"));
  ASSERT_TRUE(checkpoint.ok());
  const auto host = MakeHost();
  LoggedDevice device(log_);
  ExpertTierOptions options;
  options.host = host.get();
  options.device_bytes = 0;
  const ModelConfig& config = (*checkpoint)->config();
  const auto tiers = ExpertTiers::Create(**checkpoint, config, options,
                                         Precision::kFast, device);
  ASSERT_NE(tiers, nullptr);
  WeightLoader loader(**checkpoint, device, Precision::kFast);
  std::vector<std::unique_ptr<ExpertStore>> stores;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    if (!config.is_moe_layer(i)) continue;
    stores.push_back(tiers->MakeStore(
        absl::StrCat("model.layers.", i, ".mlp.experts."), loader));
  }
  ASSERT_TRUE(loader.status().ok()) << loader.status();
  ASSERT_TRUE(tiers->Prepare(16).ok());
  EXPECT_GT(tiers->speeds().host_bytes, 1e6);
  EXPECT_GT(tiers->speeds().host_macs, 1e6);
  EXPECT_GT(tiers->speeds().link_bytes, 1e6);
}

// By itself a model has one tier where all experts fit or lie in the host's
// memory anyway.
TEST_F(TiersTest, OneTierIsEnoughWhereAllFit) {
  const auto checkpoint = LoadCheckpoint(GoldenPath("deepseek_v2-lite"));
  ASSERT_TRUE(checkpoint.ok());
  const ModelConfig& config = (*checkpoint)->config();
  const auto host = MakeHost();
  LoggedDevice device(log_);
  const auto create = [&](KernelTable& table, int64_t bytes) {
    ExpertTierOptions options;
    options.host = host.get();
    options.device_bytes = bytes;
    return ExpertTiers::Create(**checkpoint, config, options, Precision::kFast,
                               table);
  };
  const int64_t all = SizesOfExperts(**checkpoint, config).total_bytes();
  EXPECT_NE(create(device, all - 1), nullptr);
  EXPECT_EQ(create(device, all), nullptr);
  EXPECT_EQ(create(device, -1), nullptr);  // far more is free
  EXPECT_EQ(create(*host, 0), nullptr);
}

}  // namespace
}  // namespace shoal
