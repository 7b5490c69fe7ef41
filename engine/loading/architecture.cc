#include "engine/loading/architecture.h"

#include "engine/loading/deepseek_architectures.h"
#include "engine/loading/deepseek_v4_architecture.h"
#include "engine/loading/dense_architectures.h"
#include "engine/loading/load_error.h"

namespace shoal {
namespace {

constexpr Architecture kArchitectures[] = {
    {"llama", "llama", ReadLlamaHfConfig, ReadLlamaGgufConfig, AddDenseTensors},
    {"qwen2", "qwen2", ReadQwen2HfConfig, ReadQwen2GgufConfig, AddDenseTensors},
    {"qwen3", "qwen3", ReadQwen3HfConfig, ReadQwen3GgufConfig, AddDenseTensors},
    {"deepseek", "deepseek", ReadDeepseekHfConfig, ReadDeepseekGgufConfig,
     AddDeepseekTensors},
    {"deepseek_v2", "deepseek2", ReadDeepseekV2HfConfig,
     ReadDeepseek2GgufConfig, AddDeepseekTensors},
    {"deepseek_v3", "", ReadDeepseekV3HfConfig, nullptr, AddDeepseekTensors},
    {"deepseek_v32", "deepseek32", ReadDeepseekV32HfConfig,
     ReadDeepseek2GgufConfig, AddDeepseekTensors},
    {"deepseek_v4", "deepseek4", ReadDeepseekV4HfConfig,
     ReadDeepseek4GgufConfig, AddDeepseekV4Tensors, DeepseekV4TensorName},
};

absl::StatusOr<const Architecture*> FindBy(std::string_view Architecture::*name,
                                           const std::string& file,
                                           std::string_view field,
                                           std::string_view wanted) {
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if ((architecture.*name).empty()) continue;
    if (architecture.*name == wanted) return &architecture;
    known += Concat({known.empty() ? "" : ", ", architecture.*name});
  }
  return absl::UnimplementedError(Concat(
      {file, ": ", field, ": expected ", known, ", got ", Quoted(wanted)}));
}

}  // namespace

absl::StatusOr<const Architecture*> FindArchitecture(
    const std::string& file, std::string_view model_type) {
  return FindBy(&Architecture::model_type, file, "model_type", model_type);
}

absl::StatusOr<const Architecture*> FindGgufArchitecture(
    const std::string& file, std::string_view gguf_name) {
  return FindBy(&Architecture::gguf_name, file,
                "metadata \"general.architecture\"", gguf_name);
}

absl::Status ValidateConfig(const std::string& file,
                            const ModelConfig& config) {
  if (config.head_dim < 2 || config.head_dim % 2 != 0) {
    return BadField(file, "head_dim", "an even number, rotated in pairs",
                    config.head_dim);
  }
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    return BadField(
        file, "num_key_value_heads",
        Concat({"a divisor of ", config.num_attention_heads, " heads"}),
        config.num_key_value_heads);
  }
  if (config.hc_mult > 0) {
    absl::Status status = ValidateDeepseekV4(file, config);
    if (!status.ok()) return status;
  }
  return ValidateExperts(file, config);
}

}  // namespace shoal
