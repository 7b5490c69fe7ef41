// PlannedTensor says what a synthetic model's tensor will hold; TensorFiller
// makes its bytes when a writer comes to it, so that no model is ever held in
// memory.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "kernels/dtype.h"
#include "server/synth/random.h"

namespace shoal {

// Independent normal values; for FP8 and FP4 in units of their scale.
struct NormalFill {
  float mean = 0;
  float stddev = 1;
};

// Appends all bytes of a tensor that is small enough to be made at once.
using ComputedFill = std::function<void(SynthRandom&, std::vector<uint8_t>*)>;

struct PlannedTensor {
  std::string name;            // as the container spells it
  DType dtype = DType::kBF16;  // F4_E2M1 shapes count values, not bytes
  std::vector<int64_t> shape;  // row-major: the last axis is contiguous
  std::variant<NormalFill, ComputedFill> fill;

  int64_t num_elements() const {
    int64_t n = 1;
    for (const int64_t dim : shape) n *= dim;
    return n;
  }
  int64_t bytes() const { return DTypeBytes(dtype, num_elements()); }
};

}  // namespace shoal
