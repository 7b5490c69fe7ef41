// Architectures that GGUF has and no golden file covers: the golden
// DeepSeek-V4, V3.2 and V1 models written as GGUF under llama.cpp's names give
// the same logits.
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "tests/engine/golden_model.h"

namespace shoal {
namespace {

// A GGUF file, version 3, in memory.
class GgufBytes {
 public:
  template <typename T>
  void Key(const std::string& key, uint32_t type, const T& value) {
    String(key, &keys_);
    Raw(type, &keys_);
    Raw(value, &keys_);
    ++num_keys_;
  }
  void U32(const std::string& key, int64_t value) {
    Key(key, 4, static_cast<uint32_t>(value));
  }
  void F32(const std::string& key, double value) {
    Key(key, 6, static_cast<float>(value));
  }
  void Text(const std::string& key, const std::string& value) {
    String(key, &keys_);
    Raw(uint32_t{8}, &keys_);
    String(value, &keys_);
    ++num_keys_;
  }
  template <typename T>
  void Array(const std::string& key, uint32_t type,
             const std::vector<T>& values) {
    String(key, &keys_);
    Raw(uint32_t{9}, &keys_);
    Raw(type, &keys_);
    Raw(uint64_t{values.size()}, &keys_);
    for (const T& value : values) Raw(value, &keys_);
    ++num_keys_;
  }
  // `dims` with the contiguous axis last, as ConstTensorView has them.
  void Tensor(const std::string& name, const std::vector<int64_t>& dims,
              uint32_t type, const std::string& data) {
    String(name, &infos_);
    Raw(static_cast<uint32_t>(dims.size()), &infos_);
    for (auto it = dims.rbegin(); it != dims.rend(); ++it) {
      Raw(static_cast<uint64_t>(*it), &infos_);
    }
    Raw(type, &infos_);
    Raw(uint64_t{data_.size()}, &infos_);
    data_ += data;
    data_.resize((data_.size() + 31) / 32 * 32);
    ++num_tensors_;
  }
  void Write(const std::string& path) const {
    std::string file = "GGUF";
    Raw(uint32_t{3}, &file);
    Raw(num_tensors_, &file);
    Raw(num_keys_, &file);
    file += keys_ + infos_;
    file.resize((file.size() + 31) / 32 * 32);
    std::ofstream(path, std::ios::binary) << file << data_;
  }

 private:
  template <typename T>
  static void Raw(const T& value, std::string* out) {
    out->append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  static void String(const std::string& value, std::string* out) {
    Raw(uint64_t{value.size()}, out);
    *out += value;
  }

  uint64_t num_keys_ = 0, num_tensors_ = 0;
  std::string keys_, infos_, data_;
};

// llama.cpp's name of a layer's tensor or of an outer one.
std::string GgufName(const std::string& hf) {
  if (hf == "model.embed_tokens.weight") return "token_embd.weight";
  if (hf == "model.norm.weight") return "output_norm.weight";
  if (hf == "lm_head.weight") return "output.weight";
  const std::string name = absl::StrReplaceAll(
      hf, {{"model.hc_head_", "output_hc_"},
           {"model.layers.", "blk."},
           {"input_layernorm", "attn_norm"},
           {"post_attention_layernorm", "ffn_norm"},
           {"self_attn.q_proj", "attn_q"},
           {"self_attn.k_proj", "attn_k"},
           {"self_attn.v_proj", "attn_v"},
           {"self_attn.q_a_proj", "attn_q_a"},
           {"self_attn.q_a_layernorm", "attn_q_a_norm"},
           {"self_attn.q_b_proj", "attn_q_b"},
           {"self_attn.kv_proj", "attn_kv"},
           {"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"},
           {"self_attn.kv_a_layernorm", "attn_kv_a_norm"},
           {"self_attn.kv_b_proj", "attn_kv_b"},
           {"self_attn.o_proj", "attn_output"},
           {"self_attn.o_a_proj", "attn_output_a"},
           {"self_attn.o_b_proj", "attn_output_b"},
           {"self_attn.sinks", "attn_sinks"},
           {"self_attn.compressor.wkv", "attn_compressor_kv"},
           {"self_attn.compressor.wgate", "attn_compressor_gate"},
           {"self_attn.compressor.", "attn_compressor_"},
           {"self_attn.indexer.compressor.wkv", "indexer_compressor_kv"},
           {"self_attn.indexer.compressor.wgate", "indexer_compressor_gate"},
           {"self_attn.indexer.compressor.", "indexer_compressor_"},
           {"self_attn.indexer.wq_b", "indexer.attn_q_b"},
           {"self_attn.indexer.wk", "indexer.attn_k"},
           {"self_attn.indexer.k_norm", "indexer.k_norm"},
           {"self_attn.indexer.weights_proj", "indexer.proj"},
           {"mlp.gate.weight", "ffn_gate_inp.weight"},
           {"mlp.gate.e_score_correction_bias", "exp_probs_b.bias"},
           {"mlp.gate.tid2eid", "ffn_gate_tid2eid"},
           {"mlp.shared_experts.gate_proj", "ffn_gate_shexp"},
           {"mlp.shared_experts.up_proj", "ffn_up_shexp"},
           {"mlp.shared_experts.down_proj", "ffn_down_shexp"},
           {"mlp.experts.gate_proj", "ffn_gate_exps"},
           {"mlp.experts.up_proj", "ffn_up_exps"},
           {"mlp.experts.down_proj", "ffn_down_exps"},
           {"mlp.gate_proj", "ffn_gate"},
           {"mlp.up_proj", "ffn_up"},
           {"mlp.down_proj", "ffn_down"}});
  return name;
}

// Rows as GGUF has them where the first half of a head rotates with the second:
// row (half, i) of a head comes to 2i + half.
std::string Interleaved(const std::string& rows, int64_t num_rows,
                        int64_t head_dim) {
  const size_t bytes = rows.size() / num_rows;
  std::string out;
  for (int64_t row = 0; row < num_rows; ++row) {
    const int64_t head = row / head_dim * head_dim;
    const int64_t pair = row % head_dim / 2;
    const int64_t source = head + row % 2 * (head_dim / 2) + pair;
    out.append(rows, source * bytes, bytes);
  }
  return out;
}

void AddTensors(const Checkpoint& checkpoint, GgufBytes* gguf) {
  const std::map<DType, uint32_t> types = {
      {DType::kF32, 0}, {DType::kBF16, 30}, {DType::kI64, 27}};
  for (const auto& [name, weight] : checkpoint.weights()) {
    const ConstTensorView& data = weight.data;
    std::vector<int64_t> dims(data.shape.begin(),
                              data.shape.begin() + data.rank);
    std::string bytes(static_cast<const char*>(data.data), data.bytes());
    // "...mlp.experts.E.gate_proj.weight": all of a layer are one tensor.
    std::string stacked = name;
    const size_t at = name.find(".experts.");
    if (at != std::string::npos) {
      const size_t number = at + std::strlen(".experts.");
      const size_t end = name.find('.', number);
      if (name.substr(number, end - number) != "0") continue;
      stacked = name.substr(0, number) + name.substr(end + 1);
      dims.insert(dims.begin(), checkpoint.config().n_routed_experts);
      for (int64_t e = 1; e < dims[0]; ++e) {
        const auto other = checkpoint.Find(
            absl::StrCat(name.substr(0, number), e, name.substr(end)));
        ASSERT_TRUE(other.ok()) << other.status();
        bytes.append(static_cast<const char*>(other->data.data),
                     other->data.bytes());
      }
    }
    if (name.ends_with(".q_proj.weight") || name.ends_with(".k_proj.weight")) {
      bytes = Interleaved(bytes, dims[0], checkpoint.config().head_dim);
    }
    ASSERT_TRUE(types.contains(data.dtype)) << name;
    gguf->Tensor(GgufName(stacked), dims, types.at(data.dtype), bytes);
  }
}

void AddCommonKeys(const ModelConfig& c, const std::string& arch,
                   GgufBytes* gguf) {
  gguf->Text("general.architecture", arch);
  const auto key = [&](const char* name) {
    return absl::StrCat(arch, ".", name);
  };
  gguf->U32(key("block_count"), c.num_hidden_layers);
  gguf->U32(key("context_length"), c.max_position_embeddings);
  gguf->U32(key("embedding_length"), c.hidden_size);
  gguf->U32(key("attention.head_count"), c.num_attention_heads);
  gguf->F32(key("attention.layer_norm_rms_epsilon"), c.rms_norm_eps);
  gguf->F32(key("rope.freq_base"), c.rope_theta);
  gguf->U32(key("vocab_size"), c.vocab_size);
  gguf->U32(key("expert_count"), c.n_routed_experts);
  gguf->U32(key("expert_used_count"), c.num_experts_per_tok);
  gguf->U32(key("expert_shared_count"), c.n_shared_experts);
  gguf->U32(key("expert_feed_forward_length"), c.moe_intermediate_size);
  gguf->F32(key("expert_weights_scale"), c.routed_scaling_factor);
  gguf->Key(key("expert_weights_norm"), 7, uint8_t{c.norm_topk_prob});
}

// Of the two that choose keys.
void AddSparseKeys(const ModelConfig& c, const std::string& arch,
                   GgufBytes* gguf) {
  const auto key = [&](const char* name) {
    return absl::StrCat(arch, ".", name);
  };
  gguf->U32(key("attention.q_lora_rank"), c.q_lora_rank);
  gguf->U32(key("rope.dimension_count"), c.qk_rope_head_dim);
  gguf->Text(key("rope.scaling.type"), "yarn");
  gguf->F32(key("rope.scaling.factor"), c.rope_scaling.factor);
  gguf->U32(key("rope.scaling.original_context_length"),
            c.rope_scaling.original_max_position_embeddings);
  gguf->U32(key("attention.indexer.head_count"), c.index_n_heads);
  gguf->U32(key("attention.indexer.key_length"), c.index_head_dim);
  gguf->U32(key("attention.indexer.top_k"), c.index_topk);
}

void AddV4Keys(const ModelConfig& c, GgufBytes* gguf) {
  const std::string p = "deepseek4.";
  AddCommonKeys(c, "deepseek4", gguf);
  AddSparseKeys(c, "deepseek4", gguf);
  gguf->U32(p + "attention.head_count_kv", 1);
  gguf->U32(p + "attention.key_length", c.head_dim);
  gguf->U32(p + "attention.value_length", c.head_dim);
  gguf->U32(p + "attention.output_lora_rank", c.o_lora_rank);
  gguf->U32(p + "attention.output_group_count", c.o_groups);
  gguf->U32(p + "attention.sliding_window", c.sliding_window);
  gguf->F32(p + "attention.compress_rope_freq_base", c.compress_rope_theta);
  gguf->Array(p + "attention.compress_ratios", 5, c.compress_ratios);
  gguf->U32(p + "expert_gating_func", 4);
  gguf->U32(p + "hash_layer_count", c.num_hash_layers);
  gguf->U32(p + "hyper_connection.count", c.hc_mult);
  gguf->U32(p + "hyper_connection.sinkhorn_iterations", c.hc_sinkhorn_iters);
  gguf->F32(p + "hyper_connection.epsilon", c.hc_eps);
  gguf->Array(p + "swiglu_clamp_exp", 6,
              std::vector<float>(c.num_hidden_layers, c.swiglu_limit));
}

void AddV32Keys(const ModelConfig& c, GgufBytes* gguf) {
  const std::string p = "deepseek32.";
  AddCommonKeys(c, "deepseek32", gguf);
  AddSparseKeys(c, "deepseek32", gguf);
  gguf->U32(p + "feed_forward_length", c.intermediate_size);
  gguf->U32(p + "attention.head_count_kv", c.num_attention_heads);
  gguf->U32(p + "attention.kv_lora_rank", c.kv_lora_rank);
  gguf->U32(p + "attention.key_length",
            c.qk_nope_head_dim + c.qk_rope_head_dim);
  gguf->U32(p + "attention.value_length", c.v_head_dim);
  gguf->U32(p + "leading_dense_block_count", c.first_k_dense_replace);
  gguf->U32(p + "expert_gating_func", 2);
  gguf->U32(p + "expert_group_count", c.n_group);
  gguf->U32(p + "expert_group_used_count", c.topk_group);
  gguf->F32(p + "rope.scaling.yarn_log_multiplier",
            0.1 * c.rope_scaling.mscale_all_dim);
}

void AddV1Keys(const ModelConfig& c, GgufBytes* gguf) {
  const std::string p = "deepseek.";
  AddCommonKeys(c, "deepseek", gguf);
  gguf->U32(p + "feed_forward_length", c.intermediate_size);
  gguf->U32(p + "attention.head_count_kv", c.num_key_value_heads);
  gguf->U32(p + "rope.dimension_count", c.head_dim);
  gguf->Text(p + "rope.scaling.type", "none");
  gguf->U32(p + "leading_dense_block_count", c.first_k_dense_replace);
}

void AddKeys(const ModelConfig& c, GgufBytes* gguf) {
  if (c.model_type == "deepseek") return AddV1Keys(c, gguf);
  return c.hc_mult > 0 ? AddV4Keys(c, gguf) : AddV32Keys(c, gguf);
}

class DeepseekGgufTest
    : public testing::TestWithParam<std::tuple<const char*, TestTable>> {};

TEST_P(DeepseekGgufTest, LogitsMatchTheFolders) {
  const auto& [name, table] = GetParam();
  const Golden golden = LoadGolden(name);
  const auto folder = LoadCheckpoint(GoldenPath(name));
  ASSERT_TRUE(folder.ok()) << folder.status();
  GgufBytes gguf;
  AddKeys((*folder)->config(), &gguf);
  AddTensors(**folder, &gguf);
  const std::string path = absl::StrCat(testing::TempDir(), "/shoal_", getpid(),
                                        name, table.name(), ".gguf");
  gguf.Write(path);
  LoadedModel model =
      LoadModel(path, table, Precision::kExact, DType::kF32, 512);
  EXPECT_EQ(model.decoder->config().model_type, (*folder)->config().model_type);
  const int64_t vocab_size = model.decoder->config().vocab_size;
  for (const GoldenPrompt& prompt : golden.prompts) {
    std::vector<int32_t> blocks((prompt.input_ids.size() + 127) / 128);
    std::iota(blocks.begin(), blocks.end(), 0);
    const auto logits = AllLogits(*model.decoder, *model.kernels,
                                  prompt.input_ids, 512, 128, blocks);
    EXPECT_LE(MaxDifference(prompt, logits, vocab_size), golden.tolerance);
  }
  std::filesystem::remove(path);
}

INSTANTIATE_TEST_SUITE_P(
    All, DeepseekGgufTest,
    testing::Combine(testing::Values("deepseek_v4",
                                     "deepseek_v4-clamp-window128",
                                     "deepseek_v32", "deepseek-v1-moe"),
                     testing::ValuesIn(TablesOfEachMemory())),
    [](const auto& info) {
      return absl::StrReplaceAll(absl::StrCat(std::get<0>(info.param), "_",
                                              std::get<1>(info.param).name()),
                                 {{"-", "_"}});
    });

}  // namespace
}  // namespace shoal
