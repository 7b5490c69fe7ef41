// The DeepSeek family: V1 (grouped-query attention with experts), V2, V3 and
// V3.2 (latent attention with experts, V3.2 with an indexer). The functions are
// entries of the table in architecture.cc.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/loading/architecture.h"

namespace shoal {

void ReadDeepseekHfConfig(FieldReader& fields, ModelConfig* config);
void ReadDeepseekV2HfConfig(FieldReader& fields, ModelConfig* config);
void ReadDeepseekV3HfConfig(FieldReader& fields, ModelConfig* config);
void ReadDeepseekV32HfConfig(FieldReader& fields, ModelConfig* config);

// Architecture deepseek, which is V1, attention stored as llama's.
void ReadDeepseekGgufConfig(FieldReader& fields, const GgufFile& gguf,
                            ModelConfig* config);
// Architectures deepseek2 and deepseek32, which are V2, V3 and V3.2; sets
// model_type to the one it is.
void ReadDeepseek2GgufConfig(FieldReader& fields, const GgufFile& gguf,
                             ModelConfig* config);

void AddDeepseekTensors(const ModelConfig& config,
                        std::vector<TensorSpec>* tensors);

// What V4 shares: the experts of a layer under `mlp` ("model.layers.3.mlp."),
// shared ones too.
void AddExpertTensors(const ModelConfig& config, const std::string& mlp,
                      std::vector<TensorSpec>* tensors);

// Relations between the fields of experts and of latent attention.
// InvalidArgument naming `file` and the field.
absl::Status ValidateExperts(const std::string& file,
                             const ModelConfig& config);

}  // namespace shoal
