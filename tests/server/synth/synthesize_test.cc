// Every tiny geometry in every format: it loads, it runs, it can be read aloud.
#include "server/synth/synthesize.h"

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/loading/checkpoint.h"
#include "engine/loading/safetensors.h"
#include "engine/models/cache_layouts.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/quant/dequantize.h"
#include "server/synth/file_writer.h"
#include "server/text/model_text.h"
#include "tests/engine/golden_model.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string ReadBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class SynthesizeTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "/synthXXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  SynthOptions Options(const std::string& geometry, const std::string& format,
                       const std::string& name = "model") const {
    SynthOptions options;
    options.geometry = geometry;
    options.format = format;
    options.path = folder_ + "/" + name;
    options.seed = 7;
    return options;
  }

  static void Write(const SynthOptions& options) {
    const auto report = Synthesize(options);
    ASSERT_TRUE(report.ok()) << report.status();
  }

  static std::unique_ptr<Checkpoint> Load(const std::string& path) {
    auto checkpoint = LoadCheckpoint(path);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return checkpoint.ok() ? *std::move(checkpoint) : nullptr;
  }

  std::string folder_;
};

class TinyModelTest
    : public SynthesizeTest,
      public testing::WithParamInterface<std::tuple<const char*, const char*>> {
 protected:
  void SetUp() override {
    SynthesizeTest::SetUp();
    const auto& [geometry, format] = GetParam();
    options_ = Options(geometry, format);
    Write(options_);
  }
  SynthOptions options_;
};

TEST_P(TinyModelTest, RunsWithFiniteLogits) {
  const auto checkpoint = Load(options_.path);
  ASSERT_NE(checkpoint, nullptr);
  EXPECT_EQ(checkpoint->container(),
            options_.format.starts_with("q") ? "gguf" : "safetensors");
  const LoadedModel model = LoadModel(options_.path, RunnableIsas().back(),
                                      Precision::kFast, DType::kBF16, 64);
  std::vector<int32_t> tokens(150);  // past the longest window of V4
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>(i * 101 % 512);
  }
  const std::vector<float> logits =
      AllLogits(*model.decoder, *model.kernels, tokens, 16, 128, {1, 0});
  double squares = 0;
  for (const float logit : logits) {
    ASSERT_TRUE(std::isfinite(logit));
    squares += double{logit} * logit;
  }
  const double deviation =
      std::sqrt(squares / static_cast<double>(logits.size()));
  EXPECT_GT(deviation, 0.5);
  EXPECT_LT(deviation, 2);
}

// A container of the same geometry says the same of it.
TEST_P(TinyModelTest, ConfigIsTheGeometrys) {
  const auto checkpoint = Load(options_.path);
  ASSERT_NE(checkpoint, nullptr);
  SynthOptions other = options_;
  other.path = folder_ + "/other";
  other.format = "bf16";
  Write(other);
  const auto folder = Load(other.path);
  ASSERT_NE(folder, nullptr);
  const ModelConfig& a = checkpoint->config();
  const ModelConfig& b = folder->config();
  EXPECT_EQ(a.model_type, b.model_type);
  EXPECT_EQ(a.num_hidden_layers, b.num_hidden_layers);
  EXPECT_EQ(a.n_routed_experts, b.n_routed_experts);
  EXPECT_EQ(a.first_k_dense_replace, b.first_k_dense_replace);
  EXPECT_EQ(a.topk_method, b.topk_method);
  EXPECT_EQ(a.scoring_func, b.scoring_func);
  EXPECT_EQ(a.index_topk, b.index_topk);
  EXPECT_EQ(a.compress_ratios, b.compress_ratios);
  EXPECT_EQ(a.num_hash_layers, b.num_hash_layers);
  EXPECT_EQ(a.hc_mult, b.hc_mult);
  EXPECT_EQ(a.swiglu_limit, b.swiglu_limit);
  EXPECT_EQ(a.rope_scaling.type == RopeScaling::Type::kYarn,
            b.rope_scaling.type == RopeScaling::Type::kYarn);
  EXPECT_EQ(MakeCacheLayout(a, DType::kBF16).BytesPerToken(),
            MakeCacheLayout(b, DType::kBF16).BytesPerToken());
}

TEST_P(TinyModelTest, WeightsHaveTheirDeviation) {
  const auto checkpoint = Load(options_.path);
  ASSERT_NE(checkpoint, nullptr);
  double all_squares = 0;
  int count = 0;
  for (const auto& [name, weight] : checkpoint->weights()) {
    // Lookup tables have values of their own size; k_b is stored transposed.
    const bool is_table = name == "model.embed_tokens.weight" ||
                          name.ends_with(".tid2eid.weight") ||
                          name.ends_with(".ape.weight");
    const bool is_matrix = weight.data.rank == 2 && !is_table &&
                           !name.ends_with("k_b_proj.weight");
    if (!is_matrix) continue;
    const int64_t in = weight.in_features();
    double squares = 0;
    std::vector<float> row(in);
    for (int64_t r = 0; r < weight.out_features(); ++r) {
      DequantizeWeightRow(weight, r, row.data());
      squares =
          std::inner_product(row.begin(), row.end(), row.begin(), squares);
    }
    const auto out = static_cast<double>(weight.out_features());
    // Wide, as a small matrix has few scales and these vary.
    EXPECT_NEAR(std::sqrt(squares / out), 1, 0.4) << name;
    all_squares += squares / out;
    ++count;
  }
  EXPECT_NEAR(all_squares / count, 1, 0.1);
}

TEST_P(TinyModelTest, TokenizerReadsAndWritesAnyText) {
  const auto checkpoint = Load(options_.path);
  ASSERT_NE(checkpoint, nullptr);
  const auto text = ModelText::Load(*checkpoint);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ((*text)->vocab_size(), checkpoint->config().vocab_size);
  EXPECT_THAT((*text)->end_token_ids(), testing::ElementsAre(1));
  const std::string wanted = "Fish \xF0\x9F\x90\x9F, 12\n";
  const auto tokens = (*text)->Encode(wanted, /*add_special_tokens=*/false);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(tokens->size(), wanted.size());
  std::string shown;
  for (const int32_t token : *tokens) shown += (*text)->TokenBytes(token);
  EXPECT_EQ(shown, wanted);
  EXPECT_EQ((*text)->TokenBytes(300), " t300");
  ChatTemplateInput chat;
  chat.messages_json = R"([{"role":"user","content":"ab"}])";
  const auto prompt = (*text)->EncodeChat(chat);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_THAT(*prompt, testing::ElementsAre(0, 3, 5 + 'a', 5 + 'b', 4));
}

std::string TestName(
    const testing::TestParamInfo<TinyModelTest::ParamType>& info) {
  std::string name =
      absl::StrCat(std::get<0>(info.param), "_", std::get<1>(info.param));
  for (char& c : name) {
    if (!absl::ascii_isalnum(c)) c = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(
    Any, TinyModelTest,
    testing::Combine(testing::Values("tiny-llama", "tiny-qwen2", "tiny-qwen3",
                                     "tiny-moe", "tiny-v2", "tiny-v3",
                                     "tiny-v32", "tiny-v4"),
                     testing::Values("bf16", "fp8", "q8_0", "q4_0", "q4_k")),
    TestName);

TEST_F(SynthesizeTest, V4HasTheReleasesNamesAndTypes) {
  Write(Options("tiny-v4", "fp8"));
  const auto folder = SafetensorsFolder::Open(folder_ + "/model");
  ASSERT_TRUE(folder.ok()) << folder.status();
  const TensorMap& tensors = (*folder)->tensors();
  const auto type = [&tensors](const std::string& name) {
    const auto it = tensors.find(name);
    return it == tensors.end() ? "none"
                               : std::string(DTypeName(it->second.dtype));
  };
  EXPECT_EQ(type("layers.0.attn.wo_a.weight"), "F8_E4M3");
  EXPECT_EQ(type("layers.0.attn.wo_a.scale"), "F8_E8M0");
  EXPECT_EQ(type("layers.1.attn.indexer.wq_b.weight"), "F8_E4M3");
  EXPECT_EQ(type("layers.2.attn.compressor.wkv.weight"), "BF16");
  EXPECT_EQ(type("layers.0.ffn.gate.tid2eid"), "I64");
  EXPECT_EQ(type("layers.0.ffn.gate.bias"), "none");
  EXPECT_EQ(type("layers.1.ffn.gate.bias"), "F32");
  EXPECT_EQ(type("layers.3.ffn.experts.7.w2.weight"), "I8");
  EXPECT_EQ(tensors.at("layers.3.ffn.experts.7.w2.weight").dim(1), 96 / 2);
  EXPECT_EQ(tensors.at("layers.3.ffn.experts.7.w2.scale").dim(1), 96 / 32);
  // Experts of the hash table: in range, different for a token.
  const ConstTensorView& table = tensors.at("layers.0.ffn.gate.tid2eid");
  const auto* ids = static_cast<const uint8_t*>(table.data);
  for (int64_t row = 0; row < table.dim(0); ++row) {
    int64_t experts[3];
    std::memcpy(experts, ids + row * sizeof(experts), sizeof(experts));
    EXPECT_TRUE(0 <= experts[0] && experts[0] < experts[1] &&
                experts[1] < experts[2] && experts[2] < 8);
  }
}

TEST_F(SynthesizeTest, EqualSeedsGiveEqualFiles) {
  SynthOptions options = Options("tiny-v3", "q4_k", "a");
  Write(options);
  options.path = folder_ + "/b";
  Write(options);
  EXPECT_EQ(ReadBytes(folder_ + "/a"), ReadBytes(folder_ + "/b"));
  options.path = folder_ + "/c";
  options.seed = 8;
  Write(options);
  EXPECT_NE(ReadBytes(folder_ + "/a"), ReadBytes(folder_ + "/c"));
}

TEST_F(SynthesizeTest, FirstLayersAreTheWholeModels) {
  Write(Options("tiny-v2", "bf16", "whole"));
  SynthOptions options = Options("tiny-v2", "bf16", "part");
  options.layers = 2;
  Write(options);
  const auto whole = Load(folder_ + "/whole");
  const auto part = Load(folder_ + "/part");
  EXPECT_EQ(part->config().num_hidden_layers, 2);
  EXPECT_LT(part->weights().size(), whole->weights().size());
  for (const auto& [name, weight] : part->weights()) {
    const auto other = whole->Find(name);
    ASSERT_TRUE(other.ok()) << other.status();
    EXPECT_EQ(
        std::memcmp(weight.data.data, other->data.data, weight.data.bytes()), 0)
        << name;
  }
}

TEST_F(SynthesizeTest, ShardsHoldWhatOneFileHolds) {
  Write(Options("tiny-v3", "fp8", "one"));
  SynthOptions options = Options("tiny-v3", "fp8", "many");
  options.max_shard_bytes = 300'000;
  Write(options);
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/many/model.safetensors"));
  const auto one = SafetensorsFolder::Open(folder_ + "/one");
  const auto many = SafetensorsFolder::Open(folder_ + "/many");
  ASSERT_TRUE(one.ok() && many.ok()) << many.status();
  ASSERT_EQ((*one)->tensors().size(), (*many)->tensors().size());
  for (const auto& [name, view] : (*one)->tensors()) {
    const ConstTensorView& other = (*many)->tensors().at(name);
    EXPECT_EQ(std::memcmp(view.data, other.data, view.bytes()), 0) << name;
  }
}

TEST_F(SynthesizeTest, SkewedModelsRun) {
  for (const char* geometry : {"tiny-v2", "tiny-v3", "tiny-moe"}) {
    SynthOptions options = Options(geometry, "bf16", geometry);
    options.router_skew = 1.2;
    Write(options);
    const LoadedModel model = LoadModel(options.path, RunnableIsas().back(),
                                        Precision::kFast, DType::kBF16, 64);
    for (const float logit : AllLogits(*model.decoder, *model.kernels,
                                       {1, 2, 3, 4, 5}, 5, 16, {0})) {
      ASSERT_TRUE(std::isfinite(logit)) << geometry;
    }
  }
}

TEST_F(SynthesizeTest, ReplacesOnlyWhenForced) {
  for (const char* format : {"bf16", "q8_0"}) {
    SynthOptions options = Options("tiny-llama", format, format);
    options.max_shard_bytes = 200'000;
    Write(options);
    options.max_shard_bytes = 1 << 30;
    const absl::Status status = Synthesize(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
    EXPECT_THAT(status.message(),
                AllOf(HasSubstr(options.path), HasSubstr("--force")));
    options.force = true;
    options.layers = 1;
    Write(options);
    EXPECT_EQ(Load(options.path)->config().num_hidden_layers, 1);
  }
  // No shard and no index of the first model is left.
  EXPECT_TRUE(std::filesystem::exists(folder_ + "/bf16/model.safetensors"));
  EXPECT_FALSE(
      std::filesystem::exists(folder_ + "/bf16/model.safetensors.index.json"));
  // A folder never gives way to a file, nor a file to a folder.
  SynthOptions options = Options("tiny-llama", "q8_0", "bf16");
  options.force = true;
  EXPECT_EQ(Synthesize(options).status().code(),
            absl::StatusCode::kInvalidArgument);
  options = Options("tiny-llama", "bf16", "q8_0");
  options.force = true;
  EXPECT_EQ(Synthesize(options).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(SynthesizeTest, RefusesWhatItCannotWrite) {
  const auto refusal = [](SynthOptions options, const auto& change) {
    change(options);
    const absl::Status status = Synthesize(options).status();
    EXPECT_FALSE(status.ok());
    EXPECT_FALSE(std::filesystem::exists(options.path));
    return std::string(status.message());
  };
  const SynthOptions good = Options("tiny-llama", "bf16");
  EXPECT_THAT(
      refusal(good, [](SynthOptions& o) { o.geometry = "v5"; }),
      AllOf(HasSubstr("geometry"), HasSubstr("v2-lite"), HasSubstr("\"v5\"")));
  EXPECT_THAT(refusal(good, [](SynthOptions& o) { o.format = "q5"; }),
              AllOf(HasSubstr("format"), HasSubstr("q4_k")));
  EXPECT_THAT(refusal(good, [](SynthOptions& o) { o.layers = 3; }),
              AllOf(HasSubstr("layers"), HasSubstr("1 to 2")));
  EXPECT_THAT(refusal(good, [](SynthOptions& o) { o.layers = -1; }),
              HasSubstr("layers"));
  EXPECT_THAT(refusal(good, [](SynthOptions& o) { o.router_skew = 1; }),
              HasSubstr("no experts"));
  const SynthOptions moe = Options("tiny-v3", "bf16");
  for (const double skew : {-1.0, 11.0, std::nan("")}) {
    EXPECT_THAT(refusal(moe, [&](SynthOptions& o) { o.router_skew = skew; }),
                HasSubstr("router-skew"));
  }
  EXPECT_THAT(refusal(good,
                      [&](SynthOptions& o) {
                        o.format = "q8_0";
                        o.path = folder_ + "/none/model.gguf";
                      }),
              HasSubstr("/none/model.gguf: cannot create"));
}

TEST(CheckDiskRoomTest, RefusesWhatNoDiskHolds) {
  EXPECT_TRUE(CheckDiskRoom(testing::TempDir() + "/a/b", 1).ok());
  const absl::Status status =
      CheckDiskRoom(testing::TempDir() + "/a/b", int64_t{1} << 60);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("GB"));
}

}  // namespace
}  // namespace shoal
