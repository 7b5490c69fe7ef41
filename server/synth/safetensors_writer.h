// Writes planned tensors as model.safetensors, or as shards with an index, in
// the form engine/loading/safetensors.h reads.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/synth/planned_tensor.h"
#include "server/synth/tensor_filler.h"

namespace shoal {

// What a file of these tensors begins with: the header and its length. Their
// bytes follow it in the same order.
std::string SafetensorsHeader(std::span<const PlannedTensor> tensors);

// Called with the bytes of each piece of a tensor that was written.
using BytesWritten = std::function<void(int64_t)>;

// A shard ends before the tensor that would take it past `max_shard_bytes`; a
// larger tensor has one of its own. InvalidArgument naming the file that could
// not be written.
absl::Status WriteSafetensors(const std::string& folder,
                              const std::vector<PlannedTensor>& tensors,
                              int64_t max_shard_bytes, TensorFiller& filler,
                              const BytesWritten& written);

}  // namespace shoal
