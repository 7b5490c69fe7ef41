// Reference quantisation: turns f32 rows into the block formats that Shoal
// writes itself (synthetic models, tests). Inference never quantises weights.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace shoal {

// Whether QuantizeRow() writes `dtype`: F32, F16, BF16, Q4_0, Q4_1, Q8_0, Q4_K.
bool CanQuantize(DType dtype);

// Encodes `n` consecutive values into DTypeBytes(dtype, n) bytes at `dst`;
// every value lands within about half a step of its block's scale. Not the best
// possible encoding: no search for error-minimising scales.
// REQUIRES: CanQuantize(dtype); n a multiple of block_elements; finite values.
void QuantizeRow(DType dtype, const float* src, int64_t n, void* dst);

}  // namespace shoal
