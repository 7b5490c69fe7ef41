// Checkpoint is a model as it lies on disk: validated configuration and named
// weights that point into memory-mapped files. Names are Hugging Face's
// ("model.layers.0.self_attn.q_proj.weight") whatever the container; GGUF names
// are translated. Nothing is copied: views live as long as the Checkpoint.
//
// LoadCheckpoint() accepts a GGUF v2/v3 file (or the first of a split set) and
// a Hugging Face folder (config.json and model.safetensors or its sharded
// index). Everything in the files is untrusted: sizes are checked before use,
// sums for overflow, and an error is one line naming file, field, expected and
// got.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/loading/model_config.h"
#include "kernels/linear.h"

namespace shoal {

class GgufFile;

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  const ModelConfig& config() const { return config_; }
  // "gguf" or "safetensors".
  const std::string& container() const { return container_; }
  // Path as given by the user.
  const std::string& path() const { return path_; }
  // Sum of the sizes of all weight files.
  int64_t file_bytes() const { return file_bytes_; }
  // Names, sizes and times of all weight files: whatever is made of weights is
  // still theirs while this is the same.
  const std::string& fingerprint() const { return fingerprint_; }
  // Sorted by name; FP8/FP4 scale tensors are folded into their weight.
  const std::map<std::string, WeightView, std::less<>>& weights() const {
    return weights_;
  }
  // NotFound naming the tensor.
  absl::StatusOr<WeightView> Find(std::string_view name) const;
  // Whether a tensor of that name exists.
  bool Contains(std::string_view name) const;
  // The parsed GGUF (metadata, tokenizer) or nullptr for a folder.
  virtual const GgufFile* gguf() const { return nullptr; }
  // Tells the kernel that the pages of a tensor, repacked elsewhere, are no
  // longer needed in memory; the data stays readable.
  virtual void DropPages(const ConstTensorView& tensor) const = 0;

 protected:
  ModelConfig config_;
  std::string container_;
  std::string path_;
  int64_t file_bytes_ = 0;
  std::string fingerprint_;
  std::map<std::string, WeightView, std::less<>> weights_;
};

// InvalidArgument (damaged or inconsistent file), NotFound (no such path or
// shard), Unimplemented (unknown architecture, tensor type or .bin/.pt/.pkl
// weights). Cost: reads headers only.
absl::StatusOr<std::unique_ptr<Checkpoint>> LoadCheckpoint(
    const std::string& path);

}  // namespace shoal
