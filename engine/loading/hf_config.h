// Reads the configuration of a Hugging Face folder: config.json, and the end
// tokens of generation_config.json where there is one. Keys nobody asks for are
// data; auto_map and other pointers to code are never followed.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/loading/model_config.h"

namespace shoal {

// InvalidArgument naming the file, the key, expected and got; NotFound without
// config.json; Unimplemented for a model_type, activation, rope type or
// quantisation that is not supported.
absl::StatusOr<ModelConfig> ReadHfConfig(const std::string& folder);

}  // namespace shoal
