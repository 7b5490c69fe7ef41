// Writes a GGUF file, version 3, in the form engine/loading/gguf.h reads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/loading/gguf_metadata.h"
#include "server/synth/planned_tensor.h"
#include "server/synth/safetensors_writer.h"
#include "server/synth/tensor_filler.h"

namespace shoal {

// Collects key-value pairs as the file has them. REQUIRES: each key once.
class GgufMetadataWriter {
 public:
  // REQUIRES: 0 <= value < 2^32.
  void PutU32(std::string_view key, int64_t value);
  void PutF32(std::string_view key, double value);
  void PutBool(std::string_view key, bool value);
  void PutString(std::string_view key, std::string_view value);
  void PutStrings(std::string_view key, const std::vector<std::string>& values);
  void PutI32s(std::string_view key, const std::vector<int32_t>& values);
  void PutF32s(std::string_view key, const std::vector<float>& values);

  uint64_t count() const { return count_; }
  const std::string& bytes() const { return bytes_; }

 private:
  void Begin(std::string_view key, GgufType type);

  uint64_t count_ = 0;
  std::string bytes_;
};

// REQUIRES: types that GGUF has: F32, BF16, Q4_0, Q8_0, Q4_K, I64.
// InvalidArgument naming the file when it cannot be written.
absl::Status WriteGguf(const std::string& path,
                       const GgufMetadataWriter& metadata,
                       const std::vector<PlannedTensor>& tensors,
                       TensorFiller& filler, const BytesWritten& written);

}  // namespace shoal
