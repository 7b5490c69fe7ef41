// TensorFiller turns planned tensors into bytes. Normal values are not drawn
// one by one: for each element type and distribution it encodes a pool of a
// million values once and then copies short runs from random places of it, at
// the speed of memory. Threads: one at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "server/synth/planned_tensor.h"

namespace shoal {

// Takes the next bytes of a tensor; its error ends the filling.
using ByteSink = std::function<absl::Status(std::span<const uint8_t>)>;

class TensorFiller {
 public:
  explicit TensorFiller(uint64_t seed) : seed_(seed) {}

  // Gives `sink` all tensor.bytes() in order. The bytes follow from the seed
  // and the tensor alone. REQUIRES: CanEncode(tensor.dtype) for normal values;
  // the last axis a multiple of the type's block.
  absl::Status Fill(const PlannedTensor& tensor, const ByteSink& sink);

 private:
  using PoolKey = std::tuple<DType, float, float>;

  const std::vector<uint8_t>& PoolOf(DType dtype, const NormalFill& fill);
  absl::Status FillNormal(const PlannedTensor& tensor, const NormalFill& fill,
                          const ByteSink& sink);

  const uint64_t seed_;
  std::map<PoolKey, std::vector<uint8_t>> pools_;
};

// What QuantizeRow() writes, and F8_E4M3 and F4_E2M1.
bool CanEncode(DType dtype);
// Encodes as QuantizeRow() does; FP8 and FP4 to the nearest code, values beyond
// the range to the largest. REQUIRES: CanEncode(dtype); finite values, a
// multiple of the type's block of them; `dst` holds them.
void EncodeValues(DType dtype, std::span<const float> values, uint8_t* dst);

}  // namespace shoal
