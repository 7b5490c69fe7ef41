#include "engine/loading/deepseek_architectures.h"

#include <string_view>

#include "engine/loading/config_limits.h"
#include "engine/loading/dense_architectures.h"
#include "engine/loading/gguf.h"
#include "engine/loading/load_error.h"

namespace shoal {
namespace {

// What a configuration file of some version leaves out.
struct ExpertDefaults {
  std::string_view topk_method;
  std::string_view scoring_func;
  bool norm_topk_prob;
};

void ReadExperts(FieldReader& fields, const ExpertDefaults& defaults,
                 ModelConfig* config) {
  config->n_routed_experts = fields.Int("n_routed_experts", 0, kMaxExperts, 0);
  config->num_nextn_predict_layers =
      fields.Int("num_nextn_predict_layers", 0, kMaxLayers, 0);
  if (config->n_routed_experts == 0) return;
  config->n_shared_experts = fields.Int("n_shared_experts", 0, kMaxExperts, 0);
  config->num_experts_per_tok =
      fields.Int("num_experts_per_tok", 1, kMaxExperts);
  config->moe_intermediate_size =
      fields.Int("moe_intermediate_size", 1, kMaxIntermediateSize);
  config->n_group = fields.Int("n_group", 1, kMaxExperts, 1);
  config->topk_group = fields.Int("topk_group", 1, kMaxExperts, 1);
  config->norm_topk_prob =
      fields.Bool("norm_topk_prob", defaults.norm_topk_prob);
  config->routed_scaling_factor =
      fields.Number("routed_scaling_factor", 1e-6, 1e6, 1);
  config->first_k_dense_replace =
      fields.Int("first_k_dense_replace", 0, kMaxLayers, 0);
  config->moe_layer_freq = fields.Int("moe_layer_freq", 1, kMaxLayers, 1);

  const std::string method =
      fields.String("topk_method", std::string(defaults.topk_method));
  if (method == "greedy") {
    config->topk_method = TopkMethod::kGreedy;
  } else if (method == "group_limited_greedy") {
    config->topk_method = TopkMethod::kGroupLimitedGreedy;
  } else if (method == "noaux_tc") {
    config->topk_method = TopkMethod::kNoauxTc;
  } else {
    fields.RejectUnsupported("topk_method",
                             "greedy, group_limited_greedy or noaux_tc",
                             Quoted(method));
  }
  const std::string scoring =
      fields.String("scoring_func", std::string(defaults.scoring_func));
  if (scoring == "softmax") {
    config->scoring_func = ScoringFunc::kSoftmax;
  } else if (scoring == "sigmoid") {
    config->scoring_func = ScoringFunc::kSigmoid;
  } else {
    fields.RejectUnsupported("scoring_func", "softmax or sigmoid",
                             Quoted(scoring));
  }
}

// Every head has a key of its own once expanded; files that say otherwise mean
// the one latent that all share.
void SetLatentHeads(ModelConfig* config) {
  config->head_dim = config->qk_nope_head_dim + config->qk_rope_head_dim;
  config->num_key_value_heads = config->num_attention_heads;
}

void ReadLatentAttention(FieldReader& fields, ModelConfig* config) {
  config->q_lora_rank = fields.Int("q_lora_rank", 0, kMaxHiddenSize, 0);
  config->kv_lora_rank = fields.Int("kv_lora_rank", 1, kMaxHiddenSize);
  config->qk_nope_head_dim = fields.Int("qk_nope_head_dim", 1, kMaxHeadDim);
  config->qk_rope_head_dim = fields.Int("qk_rope_head_dim", 1, kMaxHeadDim);
  config->v_head_dim = fields.Int("v_head_dim", 1, kMaxHeadDim);
  config->rope_layout = fields.Bool("rope_interleave", true)
                            ? RopeLayout::kInterleaved
                            : RopeLayout::kHalfSplit;
  if (fields.Bool("attention_bias", false)) {
    fields.RejectUnsupported("attention_bias", "false", "true");
  }
  SetLatentHeads(config);
}

void AddLatentAttention(const ModelConfig& config, const std::string& layer,
                        std::vector<TensorSpec>* tensors) {
  const int64_t hidden = config.hidden_size;
  const int64_t heads = config.num_attention_heads;
  const int64_t nope = config.qk_nope_head_dim;
  const int64_t rope = config.qk_rope_head_dim;
  const int64_t value = config.v_head_dim;
  const int64_t rank = config.kv_lora_rank;
  const int64_t q_rank = config.q_lora_rank;
  const int64_t q_rows = heads * (nope + rope);
  AddFloats(tensors, layer + "input_layernorm.weight", hidden);
  AddFloats(tensors, layer + "post_attention_layernorm.weight", hidden);
  const std::string attention = layer + "self_attn.";
  if (q_rank == 0) {
    AddMatrix(tensors, attention + "q_proj.weight", q_rows, hidden);
  } else {
    AddMatrix(tensors, attention + "q_a_proj.weight", q_rank, hidden);
    AddFloats(tensors, attention + "q_a_layernorm.weight", q_rank);
    AddMatrix(tensors, attention + "q_b_proj.weight", q_rows, q_rank);
  }
  AddMatrix(tensors, attention + "kv_a_proj_with_mqa.weight", rank + rope,
            hidden);
  AddFloats(tensors, attention + "kv_a_layernorm.weight", rank);
  if (config.kv_b_split) {
    AddMatrix(tensors, attention + "k_b_proj.weight", heads * rank, nope);
    AddMatrix(tensors, attention + "v_b_proj.weight", heads * value, rank);
  } else {
    AddMatrix(tensors, attention + "kv_b_proj.weight", heads * (nope + value),
              rank);
  }
  AddMatrix(tensors, attention + "o_proj.weight", hidden, heads * value);
  if (config.index_topk > 0) {
    const std::string indexer = attention + "indexer.";
    const int64_t width = config.index_head_dim;
    AddMatrix(tensors, indexer + "wq_b.weight", config.index_n_heads * width,
              q_rank);
    AddMatrix(tensors, indexer + "wk.weight", width, hidden);
    AddFloats(tensors, indexer + "k_norm.weight", width);
    AddFloats(tensors, indexer + "k_norm.bias", width);
    AddMatrix(tensors, indexer + "weights_proj.weight", config.index_n_heads,
              hidden);
  }
}

void AddExperts(const ModelConfig& config, const std::string& mlp,
                std::vector<TensorSpec>* tensors) {
  AddMatrix(tensors, mlp + "gate.weight", config.n_routed_experts,
            config.hidden_size);
  if (config.topk_method == TopkMethod::kNoauxTc) {
    AddFloats(tensors, mlp + "gate.e_score_correction_bias",
              config.n_routed_experts);
  }
  AddExpertTensors(config, mlp, tensors);
}

// The first multi-token prediction module: the layer behind the last. Files
// that leave it out serve as well.
void AddMtpModule(const ModelConfig& config, std::vector<TensorSpec>* tensors) {
  const size_t first = tensors->size();
  const int64_t hidden = config.hidden_size;
  const std::string layer =
      Concat({"model.layers.", config.num_hidden_layers, "."});
  AddFloats(tensors, layer + "enorm.weight", hidden);
  AddFloats(tensors, layer + "hnorm.weight", hidden);
  AddMatrix(tensors, layer + "eh_proj.weight", hidden, 2 * hidden);
  AddFloats(tensors, layer + "shared_head.norm.weight", hidden);
  AddLatentAttention(config, layer, tensors);
  AddExperts(config, layer + "mlp.", tensors);
  for (size_t i = first; i < tensors->size(); ++i) {
    (*tensors)[i].optional = true;
  }
}

// Keys without the architecture's prefix.
void ReadGgufExperts(FieldReader& fields, const GgufFile& gguf,
                     ModelConfig* config) {
  config->n_routed_experts = fields.Int("expert_count", 0, kMaxExperts, 0);
  if (config->n_routed_experts == 0) return;
  config->n_shared_experts =
      fields.Int("expert_shared_count", 0, kMaxExperts, 0);
  config->num_experts_per_tok = fields.Int("expert_used_count", 1, kMaxExperts);
  config->moe_intermediate_size =
      fields.Int("expert_feed_forward_length", 1, kMaxIntermediateSize);
  config->first_k_dense_replace =
      fields.Int("leading_dense_block_count", 0, kMaxLayers, 0);
  config->routed_scaling_factor =
      fields.Number("expert_weights_scale", 1e-6, 1e6, 1);
  config->norm_topk_prob = fields.Bool("expert_weights_norm", false);
  const bool sigmoid = fields.Int("expert_gating_func", 1, 2, 1) == 2;
  config->scoring_func =
      sigmoid ? ScoringFunc::kSigmoid : ScoringFunc::kSoftmax;
  // Files older than the two keys hold V3, the one model of 256 experts.
  const bool old_v3 = sigmoid && config->n_routed_experts == 256;
  config->n_group =
      fields.Int("expert_group_count", 1, kMaxExperts, old_v3 ? 8 : 1);
  config->topk_group =
      fields.Int("expert_group_used_count", 1, kMaxExperts, old_v3 ? 4 : 1);
  const std::string bias =
      Concat({"blk.", config->first_k_dense_replace, ".exp_probs_b.bias"});
  if (gguf.tensors().contains(bias)) {
    config->topk_method = TopkMethod::kNoauxTc;
  } else if (config->n_group > 1) {
    config->topk_method = TopkMethod::kGroupLimitedGreedy;
  }
}

}  // namespace

void ReadDeepseekHfConfig(FieldReader& fields, ModelConfig* config) {
  config->attention_bias = fields.Bool("attention_bias", false);
  ReadExperts(fields, {"greedy", "softmax", false}, config);
}

void ReadDeepseekV2HfConfig(FieldReader& fields, ModelConfig* config) {
  ReadLatentAttention(fields, config);
  ReadExperts(fields, {"greedy", "softmax", false}, config);
}

void ReadDeepseekV3HfConfig(FieldReader& fields, ModelConfig* config) {
  ReadLatentAttention(fields, config);
  ReadExperts(fields, {"noaux_tc", "sigmoid", true}, config);
}

void ReadDeepseekV32HfConfig(FieldReader& fields, ModelConfig* config) {
  ReadDeepseekV3HfConfig(fields, config);
  config->index_n_heads = fields.Int("index_n_heads", 1, kMaxHeads);
  config->index_head_dim = fields.Int("index_head_dim", 1, kMaxHeadDim);
  config->index_topk = fields.Int("index_topk", 1, kMaxPositions);
  if (fields.ok() && config->q_lora_rank == 0) {
    fields.Reject("q_lora_rank", "a rank, whose latent the indexer reads", "0");
  }
}

void AddExpertTensors(const ModelConfig& config, const std::string& mlp,
                      std::vector<TensorSpec>* tensors) {
  for (int64_t e = 0; e < config.n_routed_experts; ++e) {
    AddMlpTensors(config, Concat({mlp, "experts.", e, "."}),
                  config.moe_intermediate_size, tensors);
  }
  if (config.n_shared_experts > 0) {
    AddMlpTensors(config, mlp + "shared_experts.",
                  config.n_shared_experts * config.moe_intermediate_size,
                  tensors);
  }
}

void AddDeepseekTensors(const ModelConfig& config,
                        std::vector<TensorSpec>* tensors) {
  AddOuterTensors(config, tensors);
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
    const std::string layer = Concat({"model.layers.", l, "."});
    if (config.kv_lora_rank > 0) {
      AddLatentAttention(config, layer, tensors);
    } else {
      AddGqaTensors(config, layer, tensors);
    }
    if (config.is_moe_layer(l)) {
      AddExperts(config, layer + "mlp.", tensors);
    } else {
      AddMlpTensors(config, layer + "mlp.", config.intermediate_size, tensors);
    }
  }
  if (config.num_nextn_predict_layers > 0 && config.kv_lora_rank > 0 &&
      config.n_routed_experts > 0) {
    AddMtpModule(config, tensors);
  }
}

absl::Status ValidateExperts(const std::string& file,
                             const ModelConfig& config) {
  if (config.qk_rope_head_dim % 2 != 0) {
    return BadField(file, "qk_rope_head_dim",
                    "an even number, rotated in pairs",
                    config.qk_rope_head_dim);
  }
  if (config.index_topk > 0 &&
      config.index_head_dim < config.qk_rope_head_dim) {
    return BadField(
        file, "index_head_dim",
        Concat({"at least ", config.qk_rope_head_dim, ", the rotated part"}),
        config.index_head_dim);
  }
  const int64_t experts = config.n_routed_experts;
  if (experts == 0) return absl::OkStatus();
  // Bounds the list of tensors, which has three of each expert.
  if (experts > kMaxExpertsInAll / config.num_hidden_layers) {
    return BadField(file, "n_routed_experts",
                    Concat({"at most ", kMaxExpertsInAll, " in all layers"}),
                    experts);
  }
  const int64_t groups = config.n_group;
  if (experts % groups != 0) {
    return BadField(file, "n_group",
                    Concat({"a divisor of ", experts, " experts"}), groups);
  }
  if (config.topk_group > groups) {
    return BadField(file, "topk_group", Concat({"at most ", groups}),
                    config.topk_group);
  }
  const bool grouped = groups > 1 && config.topk_method != TopkMethod::kGreedy;
  if (grouped && config.topk_method == TopkMethod::kNoauxTc &&
      experts / groups < 2) {
    return BadField(file, "n_group", "two experts or more in a group", groups);
  }
  const int64_t choice =
      grouped ? experts / groups * config.topk_group : experts;
  if (config.num_experts_per_tok > choice) {
    return BadField(file, "num_experts_per_tok", Concat({"at most ", choice}),
                    config.num_experts_per_tok);
  }
  return absl::OkStatus();
}

void ReadDeepseekGgufConfig(FieldReader& fields, const GgufFile& gguf,
                            ModelConfig* config) {
  ReadLlamaGgufLayers(fields, gguf, config);  // rows permuted as there
  ReadGgufExperts(fields, gguf, config);
}

// Called with keys that lack "deepseek2.".
void ReadDeepseek2GgufConfig(FieldReader& fields, const GgufFile& gguf,
                             ModelConfig* config) {
  const auto& tensors = gguf.tensors();
  config->rope_layout = RopeLayout::kInterleaved;
  config->kv_b_split = tensors.contains("blk.0.attn_k_b.weight");
  config->q_lora_rank =
      fields.Int("attention.q_lora_rank", 0, kMaxHiddenSize, 0);
  config->kv_lora_rank =
      fields.Int("attention.kv_lora_rank", 1, kMaxHiddenSize);
  const bool mla = config->kv_b_split;
  const int64_t rope = fields.Int("rope.dimension_count", 1, kMaxHeadDim);
  const int64_t key =
      fields.Int(mla ? "attention.key_length_mla" : "attention.key_length", 2,
                 2 * kMaxHeadDim);
  config->v_head_dim =
      fields.Int(mla ? "attention.value_length_mla" : "attention.value_length",
                 1, kMaxHeadDim);
  if (fields.ok() && key <= rope) {
    fields.Reject("rope.dimension_count", Concat({"less than ", key}),
                  Concat({rope}));
  }
  config->qk_rope_head_dim = rope;
  config->qk_nope_head_dim = key - rope;
  SetLatentHeads(config);
  if (config->rope_scaling.type == RopeScaling::Type::kYarn) {
    // The key is a tenth of mscale_all_dim; cosines are not scaled.
    config->rope_scaling.mscale_all_dim =
        10 * fields.Number("rope.scaling.yarn_log_multiplier", 0, 10, 0);
    config->rope_scaling.mscale = config->rope_scaling.mscale_all_dim;
    config->rope_scaling.attention_factor = 1;
  }
  const int64_t nextn =
      fields.Int("nextn_predict_layers", 0, config->num_hidden_layers - 1, 0);
  config->num_nextn_predict_layers = nextn;
  config->num_hidden_layers -= nextn;  // the last ones

  ReadGgufExperts(fields, gguf, config);
  if (config->scoring_func == ScoringFunc::kSigmoid) {
    config->model_type = "deepseek_v3";
  }
  if (tensors.contains("blk.0.indexer.proj.weight")) {
    config->model_type = "deepseek_v32";
    config->index_n_heads =
        fields.Int("attention.indexer.head_count", 1, kMaxHeads);
    config->index_head_dim =
        fields.Int("attention.indexer.key_length", 1, kMaxHeadDim);
    config->index_topk =
        fields.Int("attention.indexer.top_k", 1, kMaxPositions);
  }
}

}  // namespace shoal
