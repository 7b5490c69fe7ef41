// The JSON header of a safetensors file as plain entries. Parsing is streamed
// and bound to the header's rigid form, so that a hostile header of the largest
// legal size costs no more than its entries.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/tensor_view.h"

namespace shoal {

struct SafetensorsEntry {
  std::string name;
  ConstTensorView view;  // dtype and shape; no data
  uint64_t begin = 0;    // bytes from the start of the data section
  uint64_t end = 0;
};

// InvalidArgument (syntax, unknown or duplicate keys, missing fields, negative
// or fractional numbers, rank over 4) or Unimplemented (element type), naming
// `file` and the tensor. Offsets are not checked against anything.
absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(
    const std::string& file, std::string_view json);

}  // namespace shoal
