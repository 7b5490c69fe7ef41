#include "engine/loading/deepseek_v4_architecture.h"

#include <utility>

#include "absl/strings/str_replace.h"
#include "engine/loading/config_limits.h"
#include "engine/loading/deepseek_architectures.h"
#include "engine/loading/dense_architectures.h"
#include "engine/loading/gguf.h"
#include "engine/loading/load_error.h"
#include "kernels/hyper_connection.h"

namespace shoal {
namespace {

constexpr int64_t kMaxCompressRatio = 1 << 10;

void AddFloatMatrix(std::vector<TensorSpec>* tensors, std::string name,
                    int64_t rows, int64_t cols) {
  tensors->push_back(
      {std::move(name), {rows, cols}, TensorSpec::Kind::kFloats});
}

void AddCompressor(const ModelConfig& config, const std::string& prefix,
                   int64_t ratio, int64_t width,
                   std::vector<TensorSpec>* tensors) {
  const int64_t channels = ratio == kOverlapRatio ? 2 * width : width;
  AddMatrix(tensors, prefix + "wkv.weight", channels, config.hidden_size);
  AddMatrix(tensors, prefix + "wgate.weight", channels, config.hidden_size);
  AddFloatMatrix(tensors, prefix + "ape.weight", ratio, channels);
  AddFloats(tensors, prefix + "norm.weight", width);
}

void AddAttention(const ModelConfig& config, int64_t layer,
                  const std::string& prefix, std::vector<TensorSpec>* tensors) {
  const int64_t hidden = config.hidden_size;
  const int64_t heads = config.num_attention_heads;
  const int64_t width = config.head_dim;
  const int64_t rank = config.q_lora_rank;
  const int64_t out_rank = config.o_groups * config.o_lora_rank;
  AddMatrix(tensors, prefix + "q_a_proj.weight", rank, hidden);
  AddFloats(tensors, prefix + "q_a_layernorm.weight", rank);
  AddMatrix(tensors, prefix + "q_b_proj.weight", heads * width, rank);
  AddMatrix(tensors, prefix + "kv_proj.weight", width, hidden);
  AddFloats(tensors, prefix + "kv_a_layernorm.weight", width);
  AddMatrix(tensors, prefix + "o_a_proj.weight", out_rank,
            heads * width / config.o_groups);
  AddMatrix(tensors, prefix + "o_b_proj.weight", hidden, out_rank);
  AddFloats(tensors, prefix + "sinks.weight", heads);
  const int64_t ratio = config.compress_ratios[layer];
  if (ratio == 0) return;
  AddCompressor(config, prefix + "compressor.", ratio, width, tensors);
  if (ratio != kOverlapRatio) return;
  const std::string indexer = prefix + "indexer.";
  AddMatrix(tensors, indexer + "wq_b.weight",
            config.index_n_heads * config.index_head_dim, rank);
  AddMatrix(tensors, indexer + "weights_proj.weight", config.index_n_heads,
            hidden);
  AddCompressor(config, indexer + "compressor.", ratio, config.index_head_dim,
                tensors);
}

void AddHyperConnection(const ModelConfig& config, const std::string& prefix,
                        std::vector<TensorSpec>* tensors) {
  const int64_t m = config.hc_mult;
  AddFloatMatrix(tensors, prefix + "_fn.weight", (2 + m) * m,
                 m * config.hidden_size);
  AddFloats(tensors, prefix + "_base.weight", (2 + m) * m);
  AddFloats(tensors, prefix + "_scale.weight", 3);
}

void AddMoe(const ModelConfig& config, int64_t layer, const std::string& prefix,
            std::vector<TensorSpec>* tensors) {
  AddMatrix(tensors, prefix + "gate.weight", config.n_routed_experts,
            config.hidden_size);
  if (config.is_hash_layer(layer)) {
    tensors->push_back({prefix + "gate.tid2eid.weight",
                        {config.vocab_size, config.num_experts_per_tok},
                        TensorSpec::Kind::kInts});
  } else {
    AddFloats(tensors, prefix + "gate.e_score_correction_bias",
              config.n_routed_experts);
  }
  AddExpertTensors(config, prefix, tensors);
}

// Entries past the last layer belong to draft modules.
void ReadRatios(FieldReader& fields, std::string_view key,
                ModelConfig* config) {
  for (const int64_t ratio : fields.Ints(key, 0, kMaxCompressRatio)) {
    config->compress_ratios.push_back(static_cast<int32_t>(ratio));
  }
}

void SetV4Routing(ModelConfig* config) {
  config->topk_method = TopkMethod::kNoauxTc;
  config->norm_topk_prob = true;
  config->scoring_func = ScoringFunc::kSqrtSoftplus;
}

}  // namespace

void ReadDeepseekV4HfConfig(FieldReader& fields, ModelConfig* config) {
  config->qk_rope_head_dim = fields.Int("qk_rope_head_dim", 1, kMaxHeadDim);
  config->rope_layout = RopeLayout::kInterleaved;
  config->q_lora_rank = fields.Int("q_lora_rank", 1, kMaxHiddenSize);
  config->o_groups = fields.Int("o_groups", 1, kMaxHeads);
  config->o_lora_rank = fields.Int("o_lora_rank", 1, kMaxHiddenSize);
  config->sliding_window = fields.Int("sliding_window", 1, kMaxPositions);
  config->compress_rope_theta =
      fields.Number("compress_rope_theta", 1, kMaxRopeTheta);
  ReadRatios(fields, "compress_ratios", config);
  config->index_n_heads = fields.Int("index_n_heads", 1, kMaxHeads);
  config->index_head_dim = fields.Int("index_head_dim", 1, kMaxHeadDim);
  config->index_topk = fields.Int("index_topk", 1, kMaxPositions);
  config->hc_mult = fields.Int("hc_mult", 1, kMaxStreams);
  config->hc_sinkhorn_iters = fields.Int("hc_sinkhorn_iters", 1, 1000, 20);
  config->hc_eps =
      static_cast<float>(fields.Number("hc_eps", 0, kMaxNormEps, 1e-6));
  // Cosines are not scaled, whatever the factor.
  config->rope_scaling.attention_factor = 1;

  config->n_routed_experts = fields.Int("n_routed_experts", 1, kMaxExperts);
  config->n_shared_experts = fields.Int("n_shared_experts", 0, kMaxExperts, 0);
  config->num_experts_per_tok =
      fields.Int("num_experts_per_tok", 1, kMaxExperts);
  config->moe_intermediate_size =
      fields.Int("moe_intermediate_size", 1, kMaxIntermediateSize);
  config->num_hash_layers = fields.Int("num_hash_layers", 0, kMaxLayers, 0);
  config->routed_scaling_factor =
      fields.Number("routed_scaling_factor", 1e-6, 1e6, 1);
  config->swiglu_limit =
      static_cast<float>(fields.Number("swiglu_limit", 0, 1e6, 0));
  SetV4Routing(config);
  const std::string scoring = fields.String("scoring_func", "sqrtsoftplus");
  if (scoring != "sqrtsoftplus") {
    fields.RejectUnsupported("scoring_func", "sqrtsoftplus", Quoted(scoring));
  }
  const std::string experts = fields.String("expert_dtype", "");
  if (experts != "" && experts != "fp4" && experts != "fp8") {
    fields.RejectUnsupported("expert_dtype", "fp4 or fp8", Quoted(experts));
  }
}

// Called with keys that lack "deepseek4.".
void ReadDeepseek4GgufConfig(FieldReader& fields, const GgufFile& gguf,
                             ModelConfig* config) {
  config->head_dim = fields.Int("attention.key_length", 1, kMaxHeadDim);
  config->qk_rope_head_dim = fields.Int("rope.dimension_count", 1, kMaxHeadDim);
  config->rope_layout = RopeLayout::kInterleaved;
  config->rope_scaling.attention_factor = 1;
  config->q_lora_rank = fields.Int("attention.q_lora_rank", 1, kMaxHiddenSize);
  config->o_groups = fields.Int("attention.output_group_count", 1, kMaxHeads);
  config->o_lora_rank =
      fields.Int("attention.output_lora_rank", 1, kMaxHiddenSize);
  config->sliding_window =
      fields.Int("attention.sliding_window", 1, kMaxPositions);
  config->compress_rope_theta =
      fields.Number("attention.compress_rope_freq_base", 1, kMaxRopeTheta);
  ReadRatios(fields, "attention.compress_ratios", config);
  config->index_n_heads =
      fields.Int("attention.indexer.head_count", 1, kMaxHeads);
  config->index_head_dim =
      fields.Int("attention.indexer.key_length", 1, kMaxHeadDim);
  config->index_topk = fields.Int("attention.indexer.top_k", 1, kMaxPositions);
  config->hc_mult = fields.Int("hyper_connection.count", 1, kMaxStreams);
  config->hc_sinkhorn_iters =
      fields.Int("hyper_connection.sinkhorn_iterations", 1, 1000, 20);
  config->hc_eps = static_cast<float>(
      fields.Number("hyper_connection.epsilon", 0, kMaxNormEps, 1e-6));
  config->n_routed_experts = fields.Int("expert_count", 1, kMaxExperts);
  config->n_shared_experts =
      fields.Int("expert_shared_count", 0, kMaxExperts, 0);
  config->num_experts_per_tok = fields.Int("expert_used_count", 1, kMaxExperts);
  config->moe_intermediate_size =
      fields.Int("expert_feed_forward_length", 1, kMaxIntermediateSize);
  config->num_hash_layers = fields.Int("hash_layer_count", 0, kMaxLayers, 0);
  config->routed_scaling_factor =
      fields.Number("expert_weights_scale", 1e-6, 1e6, 1);
  SetV4Routing(config);
  // One number a layer, all equal in published models.
  const auto limits = gguf.metadata().GetFloats("deepseek4.swiglu_clamp_exp");
  if (limits.ok() && !limits->empty()) config->swiglu_limit = limits->front();
}

void AddDeepseekV4Tensors(const ModelConfig& config,
                          std::vector<TensorSpec>* tensors) {
  AddOuterTensors(config, tensors);
  const int64_t m = config.hc_mult;
  AddFloatMatrix(tensors, "model.hc_head_fn.weight", m, m * config.hidden_size);
  AddFloats(tensors, "model.hc_head_base.weight", m);
  AddFloats(tensors, "model.hc_head_scale.weight", 1);
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
    const std::string layer = Concat({"model.layers.", l, "."});
    AddFloats(tensors, layer + "input_layernorm.weight", config.hidden_size);
    AddFloats(tensors, layer + "post_attention_layernorm.weight",
              config.hidden_size);
    AddHyperConnection(config, layer + "hc_attn", tensors);
    AddHyperConnection(config, layer + "hc_ffn", tensors);
    AddAttention(config, l, layer + "self_attn.", tensors);
    AddMoe(config, l, layer + "mlp.", tensors);
  }
}

std::string DeepseekV4TensorName(std::string_view name) {
  if (name.starts_with("mtp.")) return std::string(name);
  if (name == "head.weight") return "lm_head.weight";
  if (name == "embed.weight") return "model.embed_tokens.weight";
  std::string hf = absl::StrReplaceAll(
      "model." + std::string(name),
      {{".attn.", ".self_attn."},
       {".attn.wq_a.", ".self_attn.q_a_proj."},
       {".attn.q_norm.", ".self_attn.q_a_layernorm."},
       {".attn.wq_b.", ".self_attn.q_b_proj."},
       {".attn.wkv.", ".self_attn.kv_proj."},
       {".attn.kv_norm.", ".self_attn.kv_a_layernorm."},
       {".attn.wo_a.", ".self_attn.o_a_proj."},
       {".attn.wo_b.", ".self_attn.o_b_proj."},
       {".attn.attn_sink", ".self_attn.sinks"},
       {".ffn.", ".mlp."},
       {".ffn.gate.bias", ".mlp.gate.e_score_correction_bias"},
       {".attn_norm.", ".input_layernorm."},
       {".ffn_norm.", ".post_attention_layernorm."},
       {".w1.", ".gate_proj."},
       {".w2.", ".down_proj."},
       {".w3.", ".up_proj."}});
  constexpr std::string_view kScale = ".scale";
  if (hf.ends_with(kScale)) {
    hf.replace(hf.size() - kScale.size(), kScale.size(), ".weight_scale_inv");
  } else if (!hf.ends_with(".weight") && !hf.ends_with("_bias")) {
    hf += ".weight";  // plain parameters: sinks, tables, hyper-connections
  }
  return hf;
}

absl::Status ValidateDeepseekV4(const std::string& file,
                                const ModelConfig& config) {
  const auto layers = static_cast<size_t>(config.num_hidden_layers);
  if (config.compress_ratios.size() < layers) {
    return BadField(
        file, "compress_ratios",
        Concat({"one for each of ", config.num_hidden_layers, " layers"}),
        static_cast<int64_t>(config.compress_ratios.size()));
  }
  for (size_t l = 0; l < layers; ++l) {
    const int32_t ratio = config.compress_ratios[l];
    if (ratio != 0 && ratio != kOverlapRatio && ratio != kLongRatio) {
      return BadField(file, Concat({"compress_ratios[", l, "]"}),
                      Concat({"0, ", kOverlapRatio, " or ", kLongRatio}),
                      ratio);
    }
  }
  if (config.num_key_value_heads != 1) {
    return BadField(file, "num_key_value_heads", "1, shared by all heads",
                    config.num_key_value_heads);
  }
  if (config.qk_rope_head_dim > config.head_dim) {
    return BadField(file, "qk_rope_head_dim",
                    Concat({"at most head_dim ", config.head_dim}),
                    config.qk_rope_head_dim);
  }
  if (config.num_attention_heads % config.o_groups != 0) {
    return BadField(
        file, "o_groups",
        Concat({"a divisor of ", config.num_attention_heads, " heads"}),
        config.o_groups);
  }
  return absl::OkStatus();
}

}  // namespace shoal
