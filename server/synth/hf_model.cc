#include "server/synth/hf_model.h"

#include <string_view>
#include <utility>

#include "kernels/check.h"
#include "nlohmann/json.hpp"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

const char* ClassName(std::string_view model_type) {
  if (model_type == "llama") return "LlamaForCausalLM";
  if (model_type == "qwen2") return "Qwen2ForCausalLM";
  if (model_type == "qwen3") return "Qwen3ForCausalLM";
  if (model_type == "deepseek") return "DeepseekForCausalLM";
  if (model_type == "deepseek_v2") return "DeepseekV2ForCausalLM";
  if (model_type == "deepseek_v3") return "DeepseekV3ForCausalLM";
  if (model_type == "deepseek_v32") return "DeepseekV32ForCausalLM";
  if (model_type == "deepseek_v4") return "DeepseekV4ForCausalLM";
  SHOAL_CHECK(false);
  return "";
}

Json RopeScalingJson(const RopeScaling& scaling) {
  switch (scaling.type) {
    case RopeScaling::Type::kLlama3:
      return {{"rope_type", "llama3"},
              {"factor", scaling.factor},
              {"low_freq_factor", scaling.low_freq_factor},
              {"high_freq_factor", scaling.high_freq_factor},
              {"original_max_position_embeddings",
               scaling.original_max_position_embeddings}};
    case RopeScaling::Type::kYarn: {
      Json json = {{"type", "yarn"},
                   {"factor", scaling.factor},
                   {"original_max_position_embeddings",
                    scaling.original_max_position_embeddings},
                   {"beta_fast", scaling.beta_fast},
                   {"beta_slow", scaling.beta_slow}};
      if (scaling.mscale_all_dim != 0) {
        json["mscale"] = scaling.mscale;
        json["mscale_all_dim"] = scaling.mscale_all_dim;
      }
      return json;
    }
    default:
      return nullptr;
  }
}

void AddLatentAttention(const ModelConfig& config, Json* json) {
  Json& out = *json;
  out["q_lora_rank"] =
      config.q_lora_rank == 0 ? Json(nullptr) : Json(config.q_lora_rank);
  out["kv_lora_rank"] = config.kv_lora_rank;
  out["qk_nope_head_dim"] = config.qk_nope_head_dim;
  out["qk_rope_head_dim"] = config.qk_rope_head_dim;
  out["v_head_dim"] = config.v_head_dim;
}

void AddExperts(const ModelConfig& config, Json* json) {
  Json& out = *json;
  out["n_routed_experts"] = config.n_routed_experts;
  out["n_shared_experts"] = config.n_shared_experts;
  out["num_experts_per_tok"] = config.num_experts_per_tok;
  out["moe_intermediate_size"] = config.moe_intermediate_size;
  out["norm_topk_prob"] = config.norm_topk_prob;
  out["routed_scaling_factor"] = config.routed_scaling_factor;
  out["num_nextn_predict_layers"] = 0;
  if (config.model_type == "deepseek_v4") return;
  out["first_k_dense_replace"] = config.first_k_dense_replace;
  out["moe_layer_freq"] = config.moe_layer_freq;
  out["n_group"] = config.n_group;
  out["topk_group"] = config.topk_group;
  out["topk_method"] = config.topk_method == TopkMethod::kGreedy ? "greedy"
                       : config.topk_method == TopkMethod::kNoauxTc
                           ? "noaux_tc"
                           : "group_limited_greedy";
  out["scoring_func"] =
      config.scoring_func == ScoringFunc::kSigmoid ? "sigmoid" : "softmax";
}

void AddV4(const ModelConfig& config, const V4Shape& v4, Json* json) {
  Json& out = *json;
  out.erase("intermediate_size");  // no layer is dense
  out["head_dim"] = config.head_dim;
  out["qk_rope_head_dim"] = config.qk_rope_head_dim;
  out["q_lora_rank"] = config.q_lora_rank;
  out["o_groups"] = v4.o_groups;
  out["o_lora_rank"] = v4.o_lora_rank;
  out["topk_method"] = "noaux_tc";
  out["scoring_func"] = "sqrtsoftplus";
  out["num_hash_layers"] = v4.num_hash_layers;
  out["swiglu_limit"] = kV4SwigluLimit;
  out["sliding_window"] = v4.sliding_window;
  out["compress_ratios"] = v4.compress_ratios;
  out["compress_rope_theta"] = v4.compress_rope_theta;
  out["hc_mult"] = v4.hc_mult;
  out["hc_sinkhorn_iters"] = kV4SinkhornIterations;
  out["hc_eps"] = kV4HcEps;
}

}  // namespace

std::string HfConfigJson(const Geometry& geometry, WeightFormat format) {
  const ModelConfig& config = geometry.config;
  Json json = {{"architectures", {ClassName(config.model_type)}},
               {"model_type", config.model_type},
               {"vocab_size", config.vocab_size},
               {"hidden_size", config.hidden_size},
               {"intermediate_size", config.intermediate_size},
               {"num_hidden_layers", config.num_hidden_layers},
               {"num_attention_heads", config.num_attention_heads},
               {"num_key_value_heads", config.num_key_value_heads},
               {"hidden_act", "silu"},
               {"max_position_embeddings", config.max_position_embeddings},
               // As people write it: 1e-06, not what a float makes of it.
               {"rms_norm_eps", config.rms_norm_eps < 5e-6f ? 1e-6 : 1e-5},
               {"rope_theta", config.rope_theta},
               {"rope_scaling", RopeScalingJson(config.rope_scaling)},
               {"tie_word_embeddings", config.tie_word_embeddings},
               {"attention_bias", false},
               {"bos_token_id", config.bos_token_id},
               {"eos_token_id", config.eos_token_ids.front()},
               {"torch_dtype", "bfloat16"}};
  if (config.kv_lora_rank > 0) AddLatentAttention(config, &json);
  if (config.n_routed_experts > 0) AddExperts(config, &json);
  if (geometry.v4.has_value()) AddV4(config, *geometry.v4, &json);
  if (config.index_topk > 0) {
    json["index_n_heads"] = config.index_n_heads;
    json["index_head_dim"] = config.index_head_dim;
    json["index_topk"] = config.index_topk;
  }
  if (format == WeightFormat::kFp8) {
    Json& quantization = json["quantization_config"] = {
        {"quant_method", "fp8"},
        {"fmt", "e4m3"},
        {"activation_scheme", "dynamic"},
        {"weight_block_size", {kFp8Tile, kFp8Tile}}};
    if (HasPowerOfTwoScales(config.model_type)) {
      quantization["scale_fmt"] = "ue8m0";
    }
    if (geometry.v4.has_value()) json["expert_dtype"] = "fp4";
  }
  return json.dump(2) + "\n";
}

}  // namespace shoal
