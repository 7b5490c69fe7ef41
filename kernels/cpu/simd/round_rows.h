// Rounds activations to 8 bits in groups of kGroup: scale = max|x| / 127,
// q = round-to-nearest-even(x / scale). A group with a NaN or an infinity gets
// NaN as its scale, so that its products are not finite either. Included by
// isa_<name>.cc only.
#pragma once

#include <cmath>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

// A group below this counts as zero: 127 / max would overflow.
inline constexpr float kSmallest = 1e-36f;

inline void RoundRows(const float* in, int64_t in_features, int64_t begin,
                      int64_t end, RoundedGroup* out) {
  const int64_t groups = in_features / kGroup;
  // Adding 1.5 · 2^23 leaves the rounded integer in the low mantissa bits.
  const Vec magic = Set(12582912.0f);
  for (int64_t g = begin * groups; g < end * groups; ++g) {
    const float* x = in + g * kGroup;
    // Magnitudes compared as integers: infinity and NaN are above all others.
    VecI highest = {};
    for (int i = 0; i < kGroup; i += kLanes) {
      const VecI bits = BitCast<VecI>(Load(x + i)) & 0x7fffffff;
      highest = bits > highest ? bits : highest;
    }
    int32_t max_bits = 0;
    for (int i = 0; i < kLanes; ++i) {
      max_bits = highest[i] > max_bits ? highest[i] : max_bits;
    }
    RoundedGroup& group = out[g];
    float max = BitCast<float>(max_bits);
    if (!(max < INFINITY)) {
      group = {};
      group.scale = group.sum = NAN;
      continue;
    }
    if (max < kSmallest) max = 0;
    const float inverse = max > 0 ? 127.0f / max : 0.0f;
    VecI totals[2] = {};
    for (int i = 0; i < kGroup; i += kLanes) {
      const Vec shifted = Fma(Load(x + i), Set(inverse), magic);
      const VecI q = BitCast<VecI>(shifted) - BitCast<VecI>(magic);
      VecI& total = totals[i / (kGroup / 2)];
      total = total + q;
      StoreI8(q, group.values + i);
    }
    int32_t sums[2] = {};
    for (int i = 0; i < kLanes; ++i) {
      sums[0] += totals[0][i];
      sums[1] += totals[1][i];
    }
    group.scale = max / 127.0f;
    group.sum = group.scale * static_cast<float>(sums[0] + sums[1]);
    group.offsets[0] = -128 * sums[0];
    group.offsets[1] = -128 * sums[1];
  }
}

}  // namespace shoal::SHOAL_ISA
