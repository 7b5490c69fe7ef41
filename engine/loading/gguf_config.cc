#include "engine/loading/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/loading/architecture.h"
#include "engine/loading/config_limits.h"
#include "engine/loading/field_reader.h"
#include "engine/loading/load_error.h"

namespace shoal {
namespace {

constexpr std::pair<std::string_view, std::string_view> kOuterNames[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output_hc_fn", "model.hc_head_fn"},
    {"output_hc_base", "model.hc_head_base"},
    {"output_hc_scale", "model.hc_head_scale"},
    {"output", "lm_head"},
};

constexpr std::pair<std::string_view, std::string_view> kLayerNames[] = {
    {"attn_norm", "input_layernorm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"attn_q_a", "self_attn.q_a_proj"},
    {"attn_q_a_norm", "self_attn.q_a_layernorm"},
    {"attn_q_b", "self_attn.q_b_proj"},
    {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    {"attn_kv_b", "self_attn.kv_b_proj"},
    {"attn_k_b", "self_attn.k_b_proj"},
    {"attn_v_b", "self_attn.v_b_proj"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_exps", "mlp.experts.gate_proj"},
    {"ffn_up_exps", "mlp.experts.up_proj"},
    {"ffn_down_exps", "mlp.experts.down_proj"},
    {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
    {"ffn_down_shexp", "mlp.shared_experts.down_proj"},
    {"indexer.attn_q_b", "self_attn.indexer.wq_b"},
    {"indexer.attn_k", "self_attn.indexer.wk"},
    {"indexer.k_norm", "self_attn.indexer.k_norm"},
    {"indexer.proj", "self_attn.indexer.weights_proj"},
    {"attn_kv", "self_attn.kv_proj"},
    {"attn_output_a", "self_attn.o_a_proj"},
    {"attn_output_b", "self_attn.o_b_proj"},
    {"attn_sinks", "self_attn.sinks"},
    {"attn_compressor_kv", "self_attn.compressor.wkv"},
    {"attn_compressor_gate", "self_attn.compressor.wgate"},
    {"attn_compressor_ape", "self_attn.compressor.ape"},
    {"attn_compressor_norm", "self_attn.compressor.norm"},
    {"indexer_compressor_kv", "self_attn.indexer.compressor.wkv"},
    {"indexer_compressor_gate", "self_attn.indexer.compressor.wgate"},
    {"indexer_compressor_ape", "self_attn.indexer.compressor.ape"},
    {"indexer_compressor_norm", "self_attn.indexer.compressor.norm"},
    {"hc_attn_fn", "hc_attn_fn"},
    {"hc_attn_base", "hc_attn_base"},
    {"hc_attn_scale", "hc_attn_scale"},
    {"hc_ffn_fn", "hc_ffn_fn"},
    {"hc_ffn_base", "hc_ffn_base"},
    {"hc_ffn_scale", "hc_ffn_scale"},
    {"ffn_gate_tid2eid", "mlp.gate.tid2eid"},
    {"nextn.eh_proj", "eh_proj"},
    {"nextn.enorm", "enorm"},
    {"nextn.hnorm", "hnorm"},
    {"nextn.embed_tokens", "embed_tokens"},
    {"nextn.shared_head_head", "shared_head.head"},
    {"nextn.shared_head_norm", "shared_head.norm"},
};

template <size_t kSize>
std::string_view Translate(
    const std::pair<std::string_view, std::string_view> (&names)[kSize],
    std::string_view name) {
  for (const auto& [gguf, hf] : names) {
    if (gguf == name) return hf;
  }
  return {};
}

template <typename T>
JsonValue ArrayOf(const std::vector<T>& numbers) {
  JsonValue::Array array;
  for (T number : numbers) array.push_back(JsonValue(number));
  return JsonValue(std::move(array));
}

// A metadata value as the field reader knows values. Arrays of strings read as
// empty objects, a kind no field accepts: none is a configuration field.
absl::StatusOr<JsonValue> ToJson(const GgufMetadata& metadata,
                                 std::string_view key) {
  const auto it = metadata.values().find(key);
  if (it == metadata.values().end()) return JsonValue();
  switch (it->second.type) {
    case GgufType::kBool:
      return JsonValue(*metadata.GetBool(key));
    case GgufType::kString:
      return JsonValue(std::string(*metadata.GetString(key)));
    case GgufType::kF32:
    case GgufType::kF64:
      return JsonValue(*metadata.GetFloat(key));
    case GgufType::kArray: {
      auto numbers = metadata.GetInts(key);
      if (numbers.ok()) return ArrayOf(*numbers);
      return JsonValue(JsonValue::Object());
    }
    default: {
      auto number = metadata.GetInt(key);
      if (!number.ok()) return number.status();
      return JsonValue(*number);
    }
  }
}

FieldReader ReaderOf(const GgufFile& gguf, const std::string& prefix) {
  return FieldReader(gguf.path(), prefix, [&gguf](std::string_view key) {
    return ToJson(gguf.metadata(), key);
  });
}

// A number, or an array with one equal number a layer.
int64_t UniformInt(FieldReader& fields, std::string_view key, int64_t high,
                   std::optional<int64_t> absent = std::nullopt) {
  const std::vector<int64_t> values = fields.Ints(key, 1, high);
  if (values.empty()) return fields.Int(key, 1, high, absent);
  const auto [low_it, high_it] =
      std::minmax_element(values.begin(), values.end());
  if (*low_it != *high_it) {
    fields.RejectUnsupported(key, "the same number in every layer",
                             Concat({*low_it, " to ", *high_it}));
  }
  return values.front();
}

void ReadRope(FieldReader& fields, ModelConfig* config) {
  config->rope_theta = fields.Number("rope.freq_base", 1, kMaxRopeTheta, 10000);
  const std::string type = fields.String("rope.scaling.type", "none");
  if (type == "none") return;
  RopeScaling& scaling = config->rope_scaling;
  scaling.factor = fields.Number("rope.scaling.factor", 1, kMaxRopeFactor);
  scaling.original_max_position_embeddings =
      fields.Int("rope.scaling.original_context_length", 1, kMaxPositions,
                 config->max_position_embeddings);
  if (type == "linear") {
    scaling.type = RopeScaling::Type::kLinear;
  } else if (type == "yarn") {
    scaling.type = RopeScaling::Type::kYarn;
    scaling.beta_fast =
        fields.Number("rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32);
    scaling.beta_slow =
        fields.Number("rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1);
    // GGUF's factor multiplies the default one, Hugging Face's replaces it.
    const double multiplier =
        fields.Number("rope.scaling.yarn_attn_factor", 1e-3, 100,
                      fields.Number("rope.scaling.attn_factor", 1e-3, 100, 1));
    if (multiplier != 1) {
      scaling.attention_factor =
          multiplier * (0.1 * std::log(scaling.factor) + 1);
    }
  } else {
    fields.RejectUnsupported("rope.scaling.type", "none, linear or yarn",
                             Quoted(type));
  }
}

int64_t ReadVocabSize(FieldReader& fields, const GgufFile& gguf) {
  if (fields.Has("vocab_size")) {
    return fields.Int("vocab_size", 1, kMaxVocabSize);
  }
  const auto it = gguf.tensors().find("token_embd.weight");
  if (it == gguf.tensors().end() || it->second.rank != 2 ||
      it->second.dim(0) > kMaxVocabSize) {
    fields.Reject("vocab_size", "a size, or a matrix \"token_embd.weight\"",
                  "neither");
    return 1;
  }
  return it->second.dim(0);
}

void ReadSpecialTokens(FieldReader& fields, ModelConfig* config) {
  const int64_t last = config->vocab_size - 1;
  config->bos_token_id =
      static_cast<int32_t>(fields.Int("bos_token_id", 0, last, -1));
  for (const char* key : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
    const auto id = static_cast<int32_t>(fields.Int(key, 0, last, -1));
    auto& ids = config->eos_token_ids;
    if (id >= 0 && std::find(ids.begin(), ids.end(), id) == ids.end()) {
      ids.push_back(id);
    }
  }
}

void ReadCommon(FieldReader& fields, const GgufFile& gguf,
                ModelConfig* config) {
  config->vocab_size = ReadVocabSize(fields, gguf);
  config->hidden_size = fields.Int("embedding_length", 1, kMaxHiddenSize);
  // Absent where every layer has experts.
  const bool all_experts = fields.Has("attention.compress_ratios");
  config->intermediate_size =
      UniformInt(fields, "feed_forward_length", kMaxIntermediateSize,
                 all_experts ? std::optional<int64_t>(0) : std::nullopt);
  config->num_hidden_layers = fields.Int("block_count", 1, kMaxLayers);
  config->num_attention_heads =
      UniformInt(fields, "attention.head_count", kMaxHeads);
  config->num_key_value_heads =
      UniformInt(fields, "attention.head_count_kv", kMaxHeads,
                 config->num_attention_heads);
  config->max_position_embeddings =
      fields.Int("context_length", 1, kMaxPositions);
  config->rms_norm_eps = static_cast<float>(fields.Number(
      "attention.layer_norm_rms_epsilon", kMinNormEps, kMaxNormEps));
  config->tie_word_embeddings = !gguf.tensors().contains("output.weight");
  ReadRope(fields, config);
}

}  // namespace

absl::StatusOr<ModelConfig> ReadGgufConfig(const GgufFile& gguf) {
  auto name = gguf.metadata().GetString("general.architecture");
  if (!name.ok()) return name.status();
  auto architecture = FindGgufArchitecture(gguf.path(), *name);
  if (!architecture.ok()) return architecture.status();
  ModelConfig config;
  config.model_type = (*architecture)->model_type;
  FieldReader fields = ReaderOf(gguf, std::string(*name) + ".");
  ReadCommon(fields, gguf, &config);
  if (fields.ok()) (*architecture)->read_gguf_config(fields, gguf, &config);
  if (!fields.ok()) return fields.status();
  FieldReader tokens = ReaderOf(gguf, "tokenizer.ggml.");
  ReadSpecialTokens(tokens, &config);
  if (!tokens.ok()) return tokens.status();
  auto status = ValidateConfig(gguf.path(), config);
  if (!status.ok()) return status;
  return config;
}

std::string HfTensorName(std::string_view gguf_name) {
  const std::string original(gguf_name);
  const size_t dot = gguf_name.rfind('.');
  if (dot == std::string_view::npos) return original;
  const std::string_view stem = gguf_name.substr(0, dot);
  const std::string_view suffix = gguf_name.substr(dot);
  if (suffix != ".weight" && suffix != ".bias") return original;
  if (!stem.starts_with("blk.")) {
    const std::string_view outer = Translate(kOuterNames, stem);
    return outer.empty() ? original : Concat({outer, suffix});
  }
  const std::string_view rest = stem.substr(4);  // "3.attn_q"
  const size_t end = rest.find('.');
  if (end == std::string_view::npos || end == 0 ||
      rest.find_first_not_of("0123456789") != end) {
    return original;
  }
  const std::string layer = Concat({"model.layers.", rest.substr(0, end), "."});
  const std::string_view part = rest.substr(end + 1);
  if (part == "exp_probs_b" && suffix == ".bias") {
    return layer + "mlp.gate.e_score_correction_bias";
  }
  const std::string_view hf = Translate(kLayerNames, part);
  return hf.empty() ? original : Concat({layer, hf, suffix});
}

}  // namespace shoal
