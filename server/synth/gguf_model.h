// A synthetic model in GGUF's words: architecture, metadata, tensor names. The
// counterpart of engine/loading/gguf_config.h.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/loading/model_config.h"
#include "server/synth/geometry.h"
#include "server/synth/gguf_writer.h"
#include "server/synth/planned_tensor.h"

namespace shoal {

// "llama", "qwen2" or "deepseek2". InvalidArgument for a model of another one,
// which is written as a folder alone.
absl::StatusOr<std::string> GgufArchitecture(const Geometry& geometry);

// Renames a tensor and gives it the shape it has in GGUF, where the experts of
// a layer are one tensor; false for one that is part of another.
bool ToGgufTensor(const ModelConfig& config, PlannedTensor* tensor);

// GGUF's form of llama3 scaling: rope_freqs.weight. Nothing for other models.
void AddRopeFactors(const ModelConfig& config,
                    std::vector<PlannedTensor>* tensors);

// All metadata but the tokenizer's. REQUIRES: GgufArchitecture() is ok.
void AddModelMetadata(const Geometry& geometry, GgufMetadataWriter* metadata);

}  // namespace shoal
