#include "engine/loading/hf_config.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "engine/loading/architecture.h"
#include "engine/loading/config_limits.h"
#include "engine/loading/field_reader.h"
#include "engine/loading/json_value.h"
#include "engine/loading/load_error.h"

namespace shoal {
namespace {

// The fields of a JSON object, which must outlive the reader.
FieldReader ReaderOf(const std::string& file, const JsonValue::Object& object,
                     const std::string& shown_prefix = "") {
  return FieldReader(file, shown_prefix,
                     [&object, skip = shown_prefix.size()](
                         std::string_view key) -> absl::StatusOr<JsonValue> {
                       const auto it = object.find(key.substr(skip));
                       return it == object.end() ? JsonValue() : it->second;
                     });
}

absl::StatusOr<JsonValue> ParseObjectFile(const std::string& file) {
  auto json = ParseJsonFile(file);
  if (json.ok() && json->as_object() == nullptr) {
    return BadField(file, "document", "an object", json->Describe());
  }
  return json;
}

void ReadScalingOf(FieldReader& fields, int64_t max_position_embeddings,
                   RopeScaling* scaling) {
  // `type` is the older spelling.
  const std::string type =
      fields.String("rope_type", fields.String("type", "default"));
  if (type == "default" || type == "none") return;
  scaling->factor = fields.Number("factor", 1, kMaxRopeFactor);
  scaling->original_max_position_embeddings =
      fields.Int("original_max_position_embeddings", 1, kMaxPositions,
                 max_position_embeddings);
  if (type == "linear") {
    scaling->type = RopeScaling::Type::kLinear;
  } else if (type == "llama3") {
    scaling->type = RopeScaling::Type::kLlama3;
    scaling->low_freq_factor = fields.Number("low_freq_factor", 1e-3, 1e6);
    scaling->high_freq_factor = fields.Number("high_freq_factor", 1e-3, 1e6);
    if (scaling->high_freq_factor <= scaling->low_freq_factor) {
      fields.Reject("high_freq_factor", "more than low_freq_factor",
                    Concat({scaling->high_freq_factor}));
    }
  } else if (type == "yarn") {
    scaling->type = RopeScaling::Type::kYarn;
    scaling->beta_fast = fields.Number("beta_fast", 1e-3, 1e6, 32);
    scaling->beta_slow = fields.Number("beta_slow", 1e-3, 1e6, 1);
    scaling->mscale = fields.Number("mscale", 0, 100, 0);
    scaling->mscale_all_dim = fields.Number("mscale_all_dim", 0, 100, 0);
    scaling->attention_factor = fields.Number("attention_factor", 0, 100, 0);
    if (!fields.Bool("truncate", true)) {
      fields.RejectUnsupported("truncate", "true", "false");
    }
  } else {
    fields.RejectUnsupported("rope_type", "default, linear, llama3 or yarn",
                             Quoted(type));
  }
}

// `rope_parameters` holds theta and scaling; the older form is `rope_theta`
// beside `rope_scaling`.
void ReadRope(FieldReader& fields, ModelConfig* config) {
  config->rope_theta = fields.Number("rope_theta", 1, kMaxRopeTheta, 10000);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const JsonValue value = fields.Get(key);
    if (value.is_null()) continue;
    if (value.as_object() == nullptr) {
      fields.Reject(key, "an object", value.Describe());
      return;
    }
    FieldReader rope =
        ReaderOf(fields.file(), *value.as_object(), Concat({key, "."}));
    config->rope_theta =
        rope.Number("rope_theta", 1, kMaxRopeTheta, config->rope_theta);
    ReadScalingOf(rope, config->max_position_embeddings, &config->rope_scaling);
    fields.Adopt(rope.status());
    return;
  }
}

void ReadQuantization(FieldReader& fields, ModelConfig* config) {
  const JsonValue value = fields.Get("quantization_config");
  if (value.is_null()) return;
  if (value.as_object() == nullptr) {
    fields.Reject("quantization_config", "an object", value.Describe());
    return;
  }
  FieldReader quantization =
      ReaderOf(fields.file(), *value.as_object(), "quantization_config.");
  const std::string method = quantization.String("quant_method");
  if (method != "fp8") {
    quantization.RejectUnsupported("quant_method", "\"fp8\"", Quoted(method));
  }
  const auto block = quantization.Ints("weight_block_size", 1, 1 << 16);
  if (block.size() != 2) {
    quantization.Reject("weight_block_size", "two integers",
                        Concat({block.size(), " of them"}));
  } else {
    config->fp8_block_rows = static_cast<int32_t>(block[0]);
    config->fp8_block_cols = static_cast<int32_t>(block[1]);
  }
  fields.Adopt(quantization.status());
}

void ReadEosTokens(FieldReader& fields, ModelConfig* config) {
  const auto ids = fields.Ints("eos_token_id", 0, config->vocab_size - 1);
  if (!ids.empty()) config->eos_token_ids.assign(ids.begin(), ids.end());
}

void ReadCommon(FieldReader& fields, ModelConfig* config) {
  config->vocab_size = fields.Int("vocab_size", 1, kMaxVocabSize);
  config->hidden_size = fields.Int("hidden_size", 1, kMaxHiddenSize);
  // Absent where every layer has experts.
  config->intermediate_size =
      fields.Get("compress_ratios").is_null()
          ? fields.Int("intermediate_size", 1, kMaxIntermediateSize)
          : fields.Int("intermediate_size", 0, kMaxIntermediateSize, 0);
  config->num_hidden_layers = fields.Int("num_hidden_layers", 1, kMaxLayers);
  config->num_attention_heads = fields.Int("num_attention_heads", 1, kMaxHeads);
  config->num_key_value_heads = fields.Int("num_key_value_heads", 1, kMaxHeads,
                                           config->num_attention_heads);
  config->head_dim =
      fields.Int("head_dim", 1, kMaxHeadDim,
                 config->hidden_size / config->num_attention_heads);
  config->max_position_embeddings =
      fields.Int("max_position_embeddings", 1, kMaxPositions);
  config->rms_norm_eps = static_cast<float>(
      fields.Number("rms_norm_eps", kMinNormEps, kMaxNormEps, 1e-6));
  config->tie_word_embeddings = fields.Bool("tie_word_embeddings", false);
  config->bos_token_id = static_cast<int32_t>(
      fields.Int("bos_token_id", 0, config->vocab_size - 1, -1));
  config->torch_dtype =
      fields.String("dtype", fields.String("torch_dtype", ""));
  const std::string activation = fields.String("hidden_act", "silu");
  if (activation != "silu") {
    fields.RejectUnsupported("hidden_act", "\"silu\"", Quoted(activation));
  }
  ReadEosTokens(fields, config);
  ReadRope(fields, config);
  ReadQuantization(fields, config);
}

}  // namespace

absl::StatusOr<ModelConfig> ReadHfConfig(const std::string& folder) {
  const std::string file = folder + "/config.json";
  auto json = ParseObjectFile(file);
  if (!json.ok()) return json.status();
  FieldReader fields = ReaderOf(file, *json->as_object());
  ModelConfig config;
  config.model_type = fields.String("model_type");
  if (!fields.ok()) return fields.status();
  auto architecture = FindArchitecture(file, config.model_type);
  if (!architecture.ok()) return architecture.status();
  ReadCommon(fields, &config);
  (*architecture)->read_hf_config(fields, &config);
  if (!fields.ok()) return fields.status();
  auto status = ValidateConfig(file, config);
  if (!status.ok()) return status;

  const std::string generation = folder + "/generation_config.json";
  std::error_code ignored;
  if (std::filesystem::exists(generation, ignored)) {
    auto document = ParseObjectFile(generation);
    if (!document.ok()) return document.status();
    FieldReader generation_fields =
        ReaderOf(generation, *document->as_object());
    ReadEosTokens(generation_fields, &config);
    if (!generation_fields.ok()) return generation_fields.status();
  }
  return config;
}

}  // namespace shoal
