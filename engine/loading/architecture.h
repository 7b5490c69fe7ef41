// What loading knows of each architecture: how its configuration is read from
// either container and which tensors, of which shapes, it must have. Adding an
// architecture adds one entry to the table in architecture.cc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/loading/field_reader.h"
#include "engine/loading/model_config.h"

namespace shoal {

class GgufFile;

// One tensor a model needs, by its Hugging Face name.
struct TensorSpec {
  enum class Kind : uint8_t {
    kMatrix,  // any float or block type, scaled FP8 and FP4 among them
    kFloats,  // F32, F16 or BF16: norms, biases and what must stay precise
    kInts,    // I64 or I32: tables of ids
  };
  std::string name;
  std::vector<int64_t> shape;
  Kind kind = Kind::kMatrix;
  bool optional = false;  // a checkpoint may leave it out
};

inline void AddMatrix(std::vector<TensorSpec>* tensors, std::string name,
                      int64_t out, int64_t in) {
  tensors->push_back({std::move(name), {out, in}, TensorSpec::Kind::kMatrix});
}

inline void AddFloats(std::vector<TensorSpec>* tensors, std::string name,
                      int64_t size) {
  tensors->push_back({std::move(name), {size}, TensorSpec::Kind::kFloats});
}

struct Architecture {
  std::string_view model_type;  // of config.json
  std::string_view gguf_name;   // of general.architecture; empty: none
  // Reads what is particular to the architecture after the common fields.
  void (*read_hf_config)(FieldReader& fields, ModelConfig* config);
  // As above; keys are without the architecture's prefix.
  void (*read_gguf_config)(FieldReader& fields, const GgufFile& gguf,
                           ModelConfig* config);
  // Appends every tensor of a model of that configuration.
  void (*add_tensors)(const ModelConfig& config,
                      std::vector<TensorSpec>* tensors);
  // Hugging Face's name of a tensor in a folder's files; nullptr: the same.
  std::string (*tensor_name)(std::string_view name) = nullptr;
};

// Unimplemented naming `file`, the field and the supported names.
absl::StatusOr<const Architecture*> FindArchitecture(
    const std::string& file, std::string_view model_type);
absl::StatusOr<const Architecture*> FindGgufArchitecture(
    const std::string& file, std::string_view gguf_name);

// Checks relations between fields, such as heads divisible by key/value heads.
// InvalidArgument naming `file` and the field.
absl::Status ValidateConfig(const std::string& file, const ModelConfig& config);

}  // namespace shoal
