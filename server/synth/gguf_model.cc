#include "server/synth/gguf_model.h"

#include <cmath>
#include <numbers>
#include <string_view>
#include <utility>

#include "engine/loading/load_error.h"
#include "kernels/check.h"
#include "server/synth/model_plan.h"

namespace shoal {
namespace {

constexpr std::pair<std::string_view, std::string_view> kNames[] = {
    {"model.embed_tokens.", "token_embd."},
    {"model.norm.", "output_norm."},
    {"model.hc_head_", "output_hc_"},
    {"lm_head.", "output."},
    {"input_layernorm.", "attn_norm."},
    {"post_attention_layernorm.", "ffn_norm."},
    {"self_attn.q_proj.", "attn_q."},
    {"self_attn.k_proj.", "attn_k."},
    {"self_attn.v_proj.", "attn_v."},
    {"self_attn.o_proj.", "attn_output."},
    {"self_attn.q_a_proj.", "attn_q_a."},
    {"self_attn.q_a_layernorm.", "attn_q_a_norm."},
    {"self_attn.q_b_proj.", "attn_q_b."},
    {"self_attn.kv_a_proj_with_mqa.", "attn_kv_a_mqa."},
    {"self_attn.kv_a_layernorm.", "attn_kv_a_norm."},
    {"self_attn.k_b_proj.", "attn_k_b."},
    {"self_attn.v_b_proj.", "attn_v_b."},
    {"self_attn.q_norm.", "attn_q_norm."},
    {"self_attn.k_norm.", "attn_k_norm."},
    {"self_attn.indexer.wq_b.", "indexer.attn_q_b."},
    {"self_attn.indexer.wk.", "indexer.attn_k."},
    {"self_attn.indexer.k_norm.", "indexer.k_norm."},
    {"self_attn.indexer.weights_proj.", "indexer.proj."},
    {"self_attn.indexer.compressor.wkv.", "indexer_compressor_kv."},
    {"self_attn.indexer.compressor.wgate.", "indexer_compressor_gate."},
    {"self_attn.indexer.compressor.", "indexer_compressor_"},
    {"self_attn.kv_proj.", "attn_kv."},
    {"self_attn.o_a_proj.", "attn_output_a."},
    {"self_attn.o_b_proj.", "attn_output_b."},
    {"self_attn.sinks.", "attn_sinks."},
    {"self_attn.compressor.wkv.", "attn_compressor_kv."},
    {"self_attn.compressor.wgate.", "attn_compressor_gate."},
    {"self_attn.compressor.", "attn_compressor_"},
    {"hc_attn_", "hc_attn_"},
    {"hc_ffn_", "hc_ffn_"},
    {"mlp.gate_proj.", "ffn_gate."},
    {"mlp.up_proj.", "ffn_up."},
    {"mlp.down_proj.", "ffn_down."},
    {"mlp.gate.e_score_correction_", "exp_probs_b."},
    {"mlp.gate.tid2eid.", "ffn_gate_tid2eid."},
    {"mlp.gate.", "ffn_gate_inp."},
    {"mlp.shared_experts.gate_proj.", "ffn_gate_shexp."},
    {"mlp.shared_experts.up_proj.", "ffn_up_shexp."},
    {"mlp.shared_experts.down_proj.", "ffn_down_shexp."},
    {"mlp.experts.0.gate_proj.", "ffn_gate_exps."},
    {"mlp.experts.0.up_proj.", "ffn_up_exps."},
    {"mlp.experts.0.down_proj.", "ffn_down_exps."},
};

void AddRope(const std::string& prefix, const ModelConfig& config,
             GgufMetadataWriter* metadata) {
  metadata->PutF32(prefix + "rope.freq_base", config.rope_theta);
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.type != RopeScaling::Type::kYarn) return;
  metadata->PutString(prefix + "rope.scaling.type", "yarn");
  metadata->PutF32(prefix + "rope.scaling.factor", scaling.factor);
  metadata->PutU32(prefix + "rope.scaling.original_context_length",
                   scaling.original_max_position_embeddings);
  if (scaling.mscale_all_dim != 0) {
    metadata->PutF32(prefix + "rope.scaling.yarn_log_multiplier",
                     0.1 * scaling.mscale_all_dim);
  }
}

void AddLatentAttention(const std::string& prefix, const ModelConfig& config,
                        GgufMetadataWriter* metadata) {
  const std::string attention = prefix + "attention.";
  const int64_t rope = config.qk_rope_head_dim;
  if (config.q_lora_rank > 0) {
    metadata->PutU32(attention + "q_lora_rank", config.q_lora_rank);
  }
  metadata->PutU32(attention + "kv_lora_rank", config.kv_lora_rank);
  // What is cached is one latent with its rotated part, whatever the heads.
  metadata->PutU32(attention + "head_count_kv", 1);
  metadata->PutU32(attention + "key_length", config.kv_lora_rank + rope);
  metadata->PutU32(attention + "value_length", config.kv_lora_rank);
  metadata->PutU32(attention + "key_length_mla",
                   config.qk_nope_head_dim + rope);
  metadata->PutU32(attention + "value_length_mla", config.v_head_dim);
  metadata->PutU32(prefix + "rope.dimension_count", rope);
}

void AddIndexer(const std::string& prefix, const ModelConfig& config,
                GgufMetadataWriter* metadata) {
  const std::string indexer = prefix + "attention.indexer.";
  metadata->PutU32(indexer + "head_count", config.index_n_heads);
  metadata->PutU32(indexer + "key_length", config.index_head_dim);
  metadata->PutU32(indexer + "top_k", config.index_topk);
}

void AddV4(const std::string& prefix, const Geometry& geometry,
           GgufMetadataWriter* metadata) {
  const ModelConfig& config = geometry.config;
  const V4Shape& v4 = *geometry.v4;
  const std::string attention = prefix + "attention.";
  metadata->PutU32(attention + "head_count_kv", 1);
  metadata->PutU32(attention + "key_length", config.head_dim);
  metadata->PutU32(attention + "value_length", config.head_dim);
  metadata->PutU32(attention + "q_lora_rank", config.q_lora_rank);
  metadata->PutU32(attention + "output_lora_rank", v4.o_lora_rank);
  metadata->PutU32(attention + "output_group_count", v4.o_groups);
  metadata->PutU32(attention + "sliding_window", v4.sliding_window);
  metadata->PutF32(attention + "compress_rope_freq_base",
                   v4.compress_rope_theta);
  metadata->PutI32s(attention + "compress_ratios",
                    {v4.compress_ratios.begin(), v4.compress_ratios.end()});
  metadata->PutU32(prefix + "rope.dimension_count", config.qk_rope_head_dim);
  metadata->PutU32(prefix + "hash_layer_count", v4.num_hash_layers);
  metadata->PutU32(prefix + "hyper_connection.count", v4.hc_mult);
  metadata->PutU32(prefix + "hyper_connection.sinkhorn_iterations",
                   kV4SinkhornIterations);
  metadata->PutF32(prefix + "hyper_connection.epsilon", kV4HcEps);
  metadata->PutF32s(
      prefix + "swiglu_clamp_exp",
      std::vector<float>(config.num_hidden_layers, kV4SwigluLimit));
}

int GatingFunc(const Geometry& geometry) {
  if (geometry.v4.has_value()) return 4;  // square root of softplus
  return geometry.config.scoring_func == ScoringFunc::kSigmoid ? 2 : 1;
}

void AddExperts(const std::string& prefix, const Geometry& geometry,
                GgufMetadataWriter* metadata) {
  const ModelConfig& config = geometry.config;
  metadata->PutU32(prefix + "expert_count", config.n_routed_experts);
  metadata->PutU32(prefix + "expert_used_count", config.num_experts_per_tok);
  metadata->PutU32(prefix + "expert_shared_count", config.n_shared_experts);
  metadata->PutU32(prefix + "expert_feed_forward_length",
                   config.moe_intermediate_size);
  metadata->PutU32(prefix + "leading_dense_block_count",
                   config.first_k_dense_replace);
  metadata->PutF32(prefix + "expert_weights_scale",
                   config.routed_scaling_factor);
  metadata->PutBool(prefix + "expert_weights_norm", config.norm_topk_prob);
  metadata->PutU32(prefix + "expert_gating_func", GatingFunc(geometry));
  metadata->PutU32(prefix + "expert_group_count", config.n_group);
  metadata->PutU32(prefix + "expert_group_used_count", config.topk_group);
}

}  // namespace

std::string GgufArchitecture(const ModelConfig& config) {
  const std::string& type = config.model_type;
  if (type == "deepseek_v2" || type == "deepseek_v3") return "deepseek2";
  if (type == "deepseek_v32") return "deepseek32";
  if (type == "deepseek_v4") return "deepseek4";
  return type;
}

// "bias" or "weight" remains behind what the table translates.
std::string GgufTensorName(std::string_view hf_name) {
  constexpr std::string_view kLayers = "model.layers.";
  std::string block;
  std::string_view rest = hf_name;
  if (rest.starts_with(kLayers)) {
    rest.remove_prefix(kLayers.size());
    const size_t dot = rest.find('.');
    block = Concat({"blk.", rest.substr(0, dot), "."});
    rest.remove_prefix(dot + 1);
  }
  for (const auto& [hf, gguf] : kNames) {
    if (rest.starts_with(hf)) {
      return Concat({block, gguf, rest.substr(hf.size())});
    }
  }
  SHOAL_CHECK(false);
  return "";
}

bool ToGgufTensor(const ModelConfig& config, PlannedTensor* tensor) {
  const std::string& name = tensor->name;
  constexpr std::string_view kExperts = ".mlp.experts.";
  const size_t at = name.find(kExperts);
  const bool is_expert = at != std::string::npos;
  if (is_expert && !name.substr(at + kExperts.size()).starts_with("0.")) {
    return false;
  }
  std::vector<int64_t>& shape = tensor->shape;
  if (is_expert) {
    shape.insert(shape.begin(), config.n_routed_experts);
  } else if (name.ends_with(".k_b_proj.weight") ||
             name.ends_with(".v_b_proj.weight")) {
    const int64_t heads = config.num_attention_heads;
    shape = {heads, shape[0] / heads, shape[1]};
  }
  tensor->name = GgufTensorName(name);
  return true;
}

void AddRopeFactors(const ModelConfig& config,
                    std::vector<PlannedTensor>* tensors) {
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.type != RopeScaling::Type::kLlama3) return;
  const int64_t count = config.head_dim / 2;
  std::vector<float> factors;
  for (int64_t i = 0; i < count; ++i) {
    const double wavelength =
        2 * std::numbers::pi *
        std::pow(config.rope_theta, 2.0 * static_cast<double>(i) /
                                        static_cast<double>(config.head_dim));
    const double turns =
        static_cast<double>(scaling.original_max_position_embeddings) /
        wavelength;
    double factor = 1;
    if (turns < scaling.low_freq_factor) {
      factor = scaling.factor;
    } else if (turns <= scaling.high_freq_factor) {
      const double share = (turns - scaling.low_freq_factor) /
                           (scaling.high_freq_factor - scaling.low_freq_factor);
      factor = 1 / ((1 - share) / scaling.factor + share);
    }
    factors.push_back(static_cast<float>(factor));
  }
  tensors->push_back(FloatTensor("rope_freqs.weight", DType::kF32, {count},
                                 [factors](SynthRandom&) { return factors; }));
}

void AddModelMetadata(const Geometry& geometry, GgufMetadataWriter* metadata) {
  const ModelConfig& config = geometry.config;
  const std::string name = GgufArchitecture(config);
  const std::string prefix = name + ".";
  metadata->PutString("general.architecture", name);
  metadata->PutString("general.name", geometry.name + " with random weights");
  metadata->PutU32(prefix + "vocab_size", config.vocab_size);
  metadata->PutU32(prefix + "context_length", config.max_position_embeddings);
  metadata->PutU32(prefix + "embedding_length", config.hidden_size);
  metadata->PutU32(prefix + "block_count", config.num_hidden_layers);
  metadata->PutU32(prefix + "feed_forward_length", config.intermediate_size);
  metadata->PutU32(prefix + "attention.head_count", config.num_attention_heads);
  metadata->PutF32(prefix + "attention.layer_norm_rms_epsilon",
                   config.rms_norm_eps);
  AddRope(prefix, config, metadata);
  if (geometry.v4.has_value()) {
    AddV4(prefix, geometry, metadata);
  } else if (config.kv_lora_rank > 0) {
    AddLatentAttention(prefix, config, metadata);
  } else {
    metadata->PutU32(prefix + "attention.head_count_kv",
                     config.num_key_value_heads);
    metadata->PutU32(prefix + "attention.key_length", config.head_dim);
    metadata->PutU32(prefix + "attention.value_length", config.head_dim);
    metadata->PutU32(prefix + "rope.dimension_count", config.head_dim);
  }
  if (config.index_topk > 0) AddIndexer(prefix, config, metadata);
  if (config.n_routed_experts > 0) AddExperts(prefix, geometry, metadata);
}

}  // namespace shoal
