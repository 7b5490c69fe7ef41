// Safetensors containers: one file, or the shards of a Hugging Face folder.
// Bytes of a file: u64 little-endian N (at most 100 MB), N bytes of JSON
//   {"name": {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]},
//    "__metadata__": {"key": "text"}}
// and the data, which the tensors tile without holes or overlap. All of that is
// checked, so what Open() accepts can be read without further checks. Tensors
// may lie at any alignment. Read-only after Open(): any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/loading/mapped_file.h"
#include "kernels/tensor_view.h"

namespace shoal {

using TensorMap = std::map<std::string, ConstTensorView, std::less<>>;

class SafetensorsFile {
 public:
  // InvalidArgument: damaged (the message names tensor, expected and got);
  // Unimplemented: an element type we do not read; NotFound: no such file.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(
      const std::string& path);

  const MappedFile& file() const { return *file_; }
  const TensorMap& tensors() const { return tensors_; }

 private:
  SafetensorsFile() = default;

  std::unique_ptr<MappedFile> file_;
  TensorMap tensors_;
};

// All tensors of a folder: of the shards that model.safetensors.index.json
// lists, or of model.safetensors.
class SafetensorsFolder {
 public:
  // As SafetensorsFile::Open(). InvalidArgument also: a tensor that is not in
  // the shard the index names, or in two. Unimplemented: a folder with only
  // .bin, .pt, .pth or .pkl weights, which are programs, not data.
  static absl::StatusOr<std::unique_ptr<SafetensorsFolder>> Open(
      const std::string& folder);

  const TensorMap& tensors() const { return tensors_; }
  // Sum over the shards.
  int64_t file_bytes() const;
  // Of all shards; see MappedFile.
  std::string Fingerprint() const;
  // See MappedFile::DropPages(). REQUIRES: `tensor` lies within one of the
  // tensors.
  void DropPages(const ConstTensorView& tensor) const;

 private:
  SafetensorsFolder() = default;

  absl::Status AddShard(const std::string& path);
  absl::Status AddIndexed(const std::string& folder, const std::string& index);

  std::vector<std::unique_ptr<SafetensorsFile>> shards_;
  TensorMap tensors_;
};

}  // namespace shoal
