// DeepSeek-V4: one shared key-value head over a sliding window and compressed
// entries, hyper-connections, experts in every layer. The functions are entries
// of the table in architecture.cc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/loading/architecture.h"

namespace shoal {

void ReadDeepseekV4HfConfig(FieldReader& fields, ModelConfig* config);
// Architecture deepseek4.
void ReadDeepseek4GgufConfig(FieldReader& fields, const GgufFile& gguf,
                             ModelConfig* config);
void AddDeepseekV4Tensors(const ModelConfig& config,
                          std::vector<TensorSpec>* tensors);

// Published files have names of their own ("layers.3.attn.wq_a.scale"); this is
// what the other architectures would call the tensor
// ("model.layers.3.self_attn.wq_a.weight_scale_inv").
std::string DeepseekV4TensorName(std::string_view name);

// Relations between the fields. InvalidArgument naming `file` and the field.
absl::Status ValidateDeepseekV4(const std::string& file,
                                const ModelConfig& config);

}  // namespace shoal
