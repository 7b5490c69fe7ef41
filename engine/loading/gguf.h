// GgufFile is a GGUF model, version 2 or 3, of one file or a split set: its
// metadata and its tensors, still in ggml's names. Bytes, little-endian:
//
//   "GGUF"  u32 version  u64 tensor_count  u64 metadata_count
//   metadata_count * { string key, u32 type, value }
//   tensor_count   * { string name, u32 rank, u64 ne[rank], u32 type,
//                      u64 offset }
//   padding to a multiple of general.alignment (default 32), then tensor data
//
// ne[0] is the contiguous axis, so shapes here are ne reversed: [out, in].
// Every size is checked against the file before it is used: what Open() accepts
// can be read without further checks. Read-only after that: any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/loading/gguf_metadata.h"
#include "engine/loading/mapped_file.h"
#include "kernels/tensor_view.h"

namespace shoal {

class GgufFile {
 public:
  // `path`: a GGUF file or the first of a split set
  // ("...-00001-of-00003.gguf"), whose other parts lie beside it.
  // InvalidArgument: damaged; Unimplemented: version 1, big-endian or an
  // element type we do not decode; NotFound: no such file or part. Cost: reads
  // the headers only.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(
      const std::string& path);

  const std::string& path() const { return parts_.front()->path(); }
  uint32_t version() const { return version_; }
  // Sum over the parts.
  int64_t file_bytes() const;
  // Of all parts; see MappedFile.
  std::string Fingerprint() const;
  // Of the first part, which carries the whole model's.
  const GgufMetadata& metadata() const { return metadata_; }
  // Of all parts, by name.
  const std::map<std::string, ConstTensorView, std::less<>>& tensors() const {
    return tensors_;
  }
  // See MappedFile::DropPages(). REQUIRES: `tensor` lies within one of the
  // tensors.
  void DropPages(const ConstTensorView& tensor) const;

 private:
  GgufFile() = default;

  // Maps and parses `path` as part `index` and adds its tensors; `metadata`
  // receives its key-value part.
  absl::Status AddPart(const std::string& path, GgufMetadata* metadata);
  absl::Status AddSplits(const std::string& first_path);

  uint32_t version_ = 0;
  GgufMetadata metadata_;
  std::vector<std::unique_ptr<MappedFile>> parts_;
  std::map<std::string, ConstTensorView, std::less<>> tensors_;
};

// Whether the file starts with GGUF's magic number.
bool HasGgufMagic(const MappedFile& file);

}  // namespace shoal
