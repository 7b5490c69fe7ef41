#include "engine/loading/dense_architectures.h"

#include <string_view>

#include "engine/loading/config_limits.h"
#include "engine/loading/gguf.h"
#include "engine/loading/load_error.h"
#include "kernels/quant/dequantize.h"

namespace shoal {
namespace {

void RefuseSlidingWindow(FieldReader& fields) {
  if (fields.Bool("use_sliding_window", false)) {
    fields.RejectUnsupported("use_sliding_window", "false", "true");
  }
}

bool HasTensor(const GgufFile& gguf, std::string_view name) {
  return gguf.tensors().contains(name);
}

// Key, value and rotated width are all head_dim in these architectures.
void ReadHeadWidths(FieldReader& fields, ModelConfig* config) {
  const int64_t quotient = config->hidden_size / config->num_attention_heads;
  config->head_dim =
      fields.Int("attention.key_length", 1, kMaxHeadDim, quotient);
  for (const char* key : {"attention.value_length", "rope.dimension_count"}) {
    const int64_t width = fields.Int(key, 1, kMaxHeadDim, config->head_dim);
    if (width != config->head_dim) {
      fields.RejectUnsupported(
          key, Concat({config->head_dim, ", the width of a key"}),
          Concat({width}));
    }
  }
}

void RefuseExperts(FieldReader& fields) {
  if (fields.Int("expert_count", 0, kMaxExperts, 0) != 0) {
    fields.RejectUnsupported("expert_count", "0", "experts");
  }
}

void ReadRopeFactors(FieldReader& fields, const GgufFile& gguf,
                     ModelConfig* config) {
  const auto it = gguf.tensors().find("rope_freqs.weight");
  if (it == gguf.tensors().end()) return;
  const ConstTensorView& view = it->second;
  const int64_t wanted = config->head_dim / 2;
  if (view.rank != 1 || view.dim(0) != wanted || view.dtype != DType::kF32) {
    fields.Reject("tensor \"rope_freqs.weight\"", Concat({wanted, " of F32"}),
                  Concat({view.num_elements(), " of ", DTypeName(view.dtype)}));
    return;
  }
  config->rope_freq_factors.resize(static_cast<size_t>(wanted));
  DequantizeRow(view.dtype, view.data, wanted,
                config->rope_freq_factors.data());
  for (const float factor : config->rope_freq_factors) {
    if (!(factor > 1e-6f && factor < 1e6f)) {
      fields.Reject("tensor \"rope_freqs.weight\"", "positive numbers",
                    Concat({static_cast<double>(factor)}));
      return;
    }
  }
}

}  // namespace

void ReadLlamaHfConfig(FieldReader& fields, ModelConfig* config) {
  config->attention_bias = fields.Bool("attention_bias", false);
  config->mlp_bias = fields.Bool("mlp_bias", false);
}

void ReadQwen2HfConfig(FieldReader& fields, ModelConfig* config) {
  config->qkv_bias = true;
  RefuseSlidingWindow(fields);
}

void ReadQwen3HfConfig(FieldReader& fields, ModelConfig* config) {
  config->qk_norm = true;
  config->attention_bias = fields.Bool("attention_bias", false);
  RefuseSlidingWindow(fields);
}

void ReadLlamaGgufConfig(FieldReader& fields, const GgufFile& gguf,
                         ModelConfig* config) {
  RefuseExperts(fields);
  ReadLlamaGgufLayers(fields, gguf, config);
}

void ReadLlamaGgufLayers(FieldReader& fields, const GgufFile& gguf,
                         ModelConfig* config) {
  config->rope_layout = RopeLayout::kInterleaved;
  ReadHeadWidths(fields, config);
  ReadRopeFactors(fields, gguf, config);
  config->attention_bias = HasTensor(gguf, "blk.0.attn_output.bias");
  config->qkv_bias =
      !config->attention_bias && HasTensor(gguf, "blk.0.attn_q.bias");
  config->mlp_bias = HasTensor(gguf, "blk.0.ffn_down.bias");
}

void ReadQwen2GgufConfig(FieldReader& fields, const GgufFile& gguf,
                         ModelConfig* config) {
  config->qkv_bias = true;
  RefuseExperts(fields);
  ReadHeadWidths(fields, config);
  ReadRopeFactors(fields, gguf, config);
}

void ReadQwen3GgufConfig(FieldReader& fields, const GgufFile& gguf,
                         ModelConfig* config) {
  config->qk_norm = true;
  RefuseExperts(fields);
  ReadHeadWidths(fields, config);
  ReadRopeFactors(fields, gguf, config);
}

void AddOuterTensors(const ModelConfig& config,
                     std::vector<TensorSpec>* tensors) {
  AddMatrix(tensors, "model.embed_tokens.weight", config.vocab_size,
            config.hidden_size);
  AddFloats(tensors, "model.norm.weight", config.hidden_size);
  if (!config.tie_word_embeddings) {
    AddMatrix(tensors, "lm_head.weight", config.vocab_size, config.hidden_size);
  }
}

void AddGqaTensors(const ModelConfig& config, const std::string& layer,
                   std::vector<TensorSpec>* tensors) {
  const int64_t hidden = config.hidden_size;
  const int64_t q_rows = config.num_attention_heads * config.head_dim;
  const int64_t kv_rows = config.num_key_value_heads * config.head_dim;
  AddFloats(tensors, layer + "input_layernorm.weight", hidden);
  AddFloats(tensors, layer + "post_attention_layernorm.weight", hidden);
  const std::string attention = layer + "self_attn.";
  AddMatrix(tensors, attention + "q_proj.weight", q_rows, hidden);
  AddMatrix(tensors, attention + "k_proj.weight", kv_rows, hidden);
  AddMatrix(tensors, attention + "v_proj.weight", kv_rows, hidden);
  AddMatrix(tensors, attention + "o_proj.weight", hidden, q_rows);
  if (config.attention_bias || config.qkv_bias) {
    AddFloats(tensors, attention + "q_proj.bias", q_rows);
    AddFloats(tensors, attention + "k_proj.bias", kv_rows);
    AddFloats(tensors, attention + "v_proj.bias", kv_rows);
  }
  if (config.attention_bias) {
    AddFloats(tensors, attention + "o_proj.bias", hidden);
  }
  if (config.qk_norm) {
    AddFloats(tensors, attention + "q_norm.weight", config.head_dim);
    AddFloats(tensors, attention + "k_norm.weight", config.head_dim);
  }
}

void AddMlpTensors(const ModelConfig& config, const std::string& prefix,
                   int64_t width, std::vector<TensorSpec>* tensors) {
  const int64_t hidden = config.hidden_size;
  AddMatrix(tensors, prefix + "gate_proj.weight", width, hidden);
  AddMatrix(tensors, prefix + "up_proj.weight", width, hidden);
  AddMatrix(tensors, prefix + "down_proj.weight", hidden, width);
  if (config.mlp_bias) {
    AddFloats(tensors, prefix + "gate_proj.bias", width);
    AddFloats(tensors, prefix + "up_proj.bias", width);
    AddFloats(tensors, prefix + "down_proj.bias", hidden);
  }
}

void AddDenseTensors(const ModelConfig& config,
                     std::vector<TensorSpec>* tensors) {
  AddOuterTensors(config, tensors);
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
    const std::string layer = Concat({"model.layers.", l, "."});
    AddGqaTensors(config, layer, tensors);
    AddMlpTensors(config, layer + "mlp.", config.intermediate_size, tensors);
  }
}

}  // namespace shoal
