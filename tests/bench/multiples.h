// Where rows of equal length begin, as batches list it.
#pragma once

#include <cstdint>
#include <vector>

namespace shoal {

// [0, step, 2 · step, ..., count · step]
inline std::vector<int32_t> Multiples(int32_t count, int32_t step) {
  std::vector<int32_t> values(count + 1);
  for (int32_t i = 0; i <= count; ++i) values[i] = i * step;
  return values;
}

}  // namespace shoal
