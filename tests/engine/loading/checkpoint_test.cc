// Golden models load from either container; every stored type decodes.
#include "engine/loading/checkpoint.h"

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "engine/loading/gguf.h"
#include "engine/loading/safetensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/quant/dequantize.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string Golden(const std::string& name) {
  return std::string(SHOAL_GOLDEN_DIR) + "/" + name;
}

struct Model {
  const char* path;  // below the golden folder
  const char* model_type;
  const char* container;
  bool tied;
};

class LoadsTest : public testing::TestWithParam<Model> {};

TEST_P(LoadsTest, WithConfigAndWeights) {
  const Model& model = GetParam();
  auto checkpoint = LoadCheckpoint(Golden(model.path));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const ModelConfig& config = (*checkpoint)->config();
  EXPECT_EQ(config.model_type, model.model_type);
  EXPECT_EQ((*checkpoint)->container(), model.container);
  EXPECT_EQ((*checkpoint)->gguf() != nullptr,
            std::string(model.container) == "gguf");
  EXPECT_EQ((*checkpoint)->Contains("lm_head.weight"), !model.tied);
  auto embedding = (*checkpoint)->Find("model.embed_tokens.weight");
  ASSERT_TRUE(embedding.ok()) << embedding.status();
  EXPECT_EQ(embedding->out_features(), config.vocab_size);
  EXPECT_EQ(embedding->in_features(), config.hidden_size);
  EXPECT_EQ((*checkpoint)->Find("model.none").status().code(),
            absl::StatusCode::kNotFound);
}

INSTANTIATE_TEST_SUITE_P(
    Golden, LoadsTest,
    testing::Values(
        Model{"llama-gqa", "llama", "safetensors", false},
        Model{"llama-tied-rope-llama3", "llama", "safetensors", true},
        Model{"qwen2", "qwen2", "safetensors", false},
        Model{"qwen3", "qwen3", "safetensors", true},
        Model{"qwen3-yarn", "qwen3", "safetensors", false},
        Model{"gguf/llama-gqa-q8_0.gguf", "llama", "gguf", false},
        Model{"gguf/llama-tied-bf16.gguf", "llama", "gguf", true},
        Model{"gguf/qwen3-bf16.gguf", "qwen3", "gguf", true},
        Model{"deepseek-v1-moe", "deepseek", "safetensors", false},
        Model{"deepseek_v2-lite", "deepseek_v2", "safetensors", false},
        Model{"deepseek_v2-group-limited-qlora-yarn", "deepseek_v2",
              "safetensors", false},
        Model{"deepseek_v3-noaux-yarn", "deepseek_v3", "safetensors", false},
        Model{"deepseek_v3-fp8", "deepseek_v3", "safetensors", false},
        Model{"deepseek_v31-fp8-ue8m0", "deepseek_v3", "safetensors", false},
        Model{"deepseek_v32", "deepseek_v32", "safetensors", false},
        Model{"gguf/deepseek_v3-kvb.gguf", "deepseek_v3", "gguf", false},
        Model{"gguf/deepseek_v3-mla.gguf", "deepseek_v3", "gguf", false}),
    [](const testing::TestParamInfo<Model>& info) {
      std::string name = info.param.path;
      for (char& c : name) {
        if (!absl::ascii_isalnum(c)) c = '_';
      }
      return name;
    });

TEST(CheckpointTest, BothContainersDescribeTheSameModel) {
  auto folder = LoadCheckpoint(Golden("qwen3"));
  auto gguf = LoadCheckpoint(Golden("gguf/qwen3-bf16.gguf"));
  ASSERT_TRUE(folder.ok()) << folder.status();
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const ModelConfig& a = (*folder)->config();
  const ModelConfig& b = (*gguf)->config();
  EXPECT_EQ(a.vocab_size, b.vocab_size);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.num_key_value_heads, b.num_key_value_heads);
  EXPECT_EQ(a.rope_theta, b.rope_theta);
  EXPECT_TRUE(a.qk_norm && b.qk_norm);
  ASSERT_EQ((*folder)->weights().size(), (*gguf)->weights().size());
  for (const auto& [name, weight] : (*folder)->weights()) {
    auto other = (*gguf)->Find(name);
    ASSERT_TRUE(other.ok()) << other.status();
    EXPECT_EQ(weight.data.shape, other->data.shape) << name;
  }
}

TEST(CheckpointTest, GgufCarriesLlama3ScalingAsFactors) {
  auto gguf = LoadCheckpoint(Golden("gguf/llama-tied-bf16.gguf"));
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const ModelConfig& config = (*gguf)->config();
  EXPECT_EQ(config.rope_freq_factors.size(),
            static_cast<size_t>(config.head_dim / 2));
  EXPECT_EQ(config.rope_scaling.type, RopeScaling::Type::kNone);
  EXPECT_EQ(config.rope_layout, RopeLayout::kInterleaved);
}

TEST(CheckpointTest, GgufDescribesTheSameDeepseek) {
  auto folder = LoadCheckpoint(Golden("deepseek_v3-noaux-yarn"));
  ASSERT_TRUE(folder.ok()) << folder.status();
  const ModelConfig& a = (*folder)->config();
  EXPECT_EQ(a.n_routed_experts, 16);
  EXPECT_EQ(a.num_hidden_layers, 4);
  EXPECT_EQ(a.num_nextn_predict_layers, 1);
  for (const char* form : {"kvb", "mla"}) {
    SCOPED_TRACE(form);
    auto gguf = LoadCheckpoint(
        Golden(std::string("gguf/deepseek_v3-") + form + ".gguf"));
    ASSERT_TRUE(gguf.ok()) << gguf.status();
    const ModelConfig& b = (*gguf)->config();
    EXPECT_EQ(b.kv_b_split, std::string(form) == "mla");
    EXPECT_EQ(a.num_hidden_layers, b.num_hidden_layers);
    EXPECT_EQ(a.q_lora_rank, b.q_lora_rank);
    EXPECT_EQ(a.kv_lora_rank, b.kv_lora_rank);
    EXPECT_EQ(a.qk_nope_head_dim, b.qk_nope_head_dim);
    EXPECT_EQ(a.qk_rope_head_dim, b.qk_rope_head_dim);
    EXPECT_EQ(a.v_head_dim, b.v_head_dim);
    EXPECT_EQ(a.n_routed_experts, b.n_routed_experts);
    EXPECT_EQ(a.n_shared_experts, b.n_shared_experts);
    EXPECT_EQ(a.num_experts_per_tok, b.num_experts_per_tok);
    EXPECT_EQ(a.moe_intermediate_size, b.moe_intermediate_size);
    EXPECT_EQ(a.n_group, b.n_group);
    EXPECT_EQ(a.topk_group, b.topk_group);
    EXPECT_EQ(a.topk_method, b.topk_method);
    EXPECT_EQ(a.scoring_func, b.scoring_func);
    EXPECT_EQ(a.norm_topk_prob, b.norm_topk_prob);
    EXPECT_FLOAT_EQ(a.routed_scaling_factor, b.routed_scaling_factor);
    EXPECT_EQ(a.first_k_dense_replace, b.first_k_dense_replace);
    EXPECT_FLOAT_EQ(a.rope_scaling.mscale_all_dim,
                    b.rope_scaling.mscale_all_dim);
    EXPECT_EQ(a.rope_scaling.factor, b.rope_scaling.factor);
    for (const auto& [name, weight] : (*folder)->weights()) {
      if (name.ends_with("kv_b_proj.weight") && b.kv_b_split) continue;
      // The prediction module, which this GGUF leaves out.
      if (name.starts_with("model.layers.4.")) continue;
      auto other = (*gguf)->Find(name);
      ASSERT_TRUE(other.ok()) << other.status();
      ASSERT_EQ(weight.data.shape, other->data.shape) << name;
      const int64_t columns = weight.in_features();
      std::vector<float> x(columns), y(columns);
      DequantizeRow(weight.data.dtype, weight.data.data, columns, x.data());
      DequantizeRow(other->data.dtype, other->data.data, columns, y.data());
      EXPECT_EQ(x, y) << name;
    }
  }
}

TEST(CheckpointTest, MissingPathIsNotFound) {
  const auto status = LoadCheckpoint(Golden("none")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("expected"), HasSubstr("got no such path")));
}

TEST(GgufTypesTest, EveryTypeDecodesToItsReference) {
  auto gguf = GgufFile::Open(Golden("gguf/types.gguf"));
  auto reference = SafetensorsFile::Open(Golden("gguf/types.safetensors"));
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  ASSERT_TRUE(reference.ok()) << reference.status();
  int compared = 0;
  for (const auto& [name, wanted] : (*reference)->tensors()) {
    SCOPED_TRACE(name);
    const auto it = (*gguf)->tensors().find(name);
    ASSERT_NE(it, (*gguf)->tensors().end());
    const int64_t count = it->second.num_elements();
    ASSERT_EQ(count, wanted.num_elements());
    std::vector<float> got(count), expected(count);
    DequantizeRow(it->second.dtype, it->second.data, count, got.data());
    DequantizeRow(wanted.dtype, wanted.data, count, expected.data());
    int64_t wrong = 0;
    for (int64_t i = 0; i < count; ++i) {
      // FMA contraction may drop one rounding of f32.
      const float bound = 1e-6f * std::abs(expected[i]);
      wrong += !(std::abs(got[i] - expected[i]) <= bound);
    }
    EXPECT_EQ(wrong, 0);
    ++compared;
  }
  EXPECT_GE(compared, 15);
}

}  // namespace
}  // namespace shoal
