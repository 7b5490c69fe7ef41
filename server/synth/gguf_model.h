// A synthetic model in GGUF's words: architecture, metadata, tensor names. The
// counterpart of engine/loading/gguf_config.h.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/loading/model_config.h"
#include "server/synth/geometry.h"
#include "server/synth/gguf_writer.h"
#include "server/synth/planned_tensor.h"

namespace shoal {

// What general.architecture says of such a model.
std::string GgufArchitecture(const ModelConfig& config);

// GGUF's name of the tensor that Hugging Face calls so.
std::string GgufTensorName(std::string_view hf_name);

// Renames a tensor and gives it the shape it has in GGUF, where the experts of
// a layer are one tensor; false for one that is part of another.
bool ToGgufTensor(const ModelConfig& config, PlannedTensor* tensor);

// GGUF's form of llama3 scaling: rope_freqs.weight. Nothing for other models.
void AddRopeFactors(const ModelConfig& config,
                    std::vector<PlannedTensor>* tensors);

// All metadata but the tokenizer's.
void AddModelMetadata(const Geometry& geometry, GgufMetadataWriter* metadata);

}  // namespace shoal
