// Rounds activations to 8 bits in groups of kGroup: scale = max|x| / 127,
// q = round-to-nearest-even(x / scale). Included by isa_<name>.cc only.
#pragma once

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

inline void RoundRows(const float* in, int64_t in_features, int64_t begin,
                      int64_t end, int8_t* values, float* scales, float* sums) {
  const int64_t groups = in_features / kGroup;
  // Adding 1.5 · 2^23 leaves the rounded integer in the low mantissa bits.
  const Vec magic = Set(12582912.0f);
  for (int64_t g = begin * groups; g < end * groups; ++g) {
    const float* x = in + g * kGroup;
    Vec highest = {};
    for (int i = 0; i < kGroup; i += kLanes) {
      const Vec v = Load(x + i);
      highest = Max(Max(v, -v), highest);
    }
    const float max = MaxLane(highest);
    const float inverse = max > 0 ? 127.0f / max : 0.0f;
    VecI total = {};
    for (int i = 0; i < kGroup; i += kLanes) {
      const Vec shifted = Fma(Load(x + i), Set(inverse), magic);
      const VecI q = BitCast<VecI>(shifted) - BitCast<VecI>(magic);
      total = total + q;
      using Bytes = int8_t __attribute__((vector_size(kLanes)));
      const Bytes bytes = __builtin_convertvector(q, Bytes);
      std::memcpy(values + g * kGroup + i, &bytes, sizeof(bytes));
    }
    int32_t sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += total[i];
    scales[g] = max / 127.0f;
    sums[g] = scales[g] * static_cast<float>(sum);
  }
}

}  // namespace shoal::SHOAL_ISA
