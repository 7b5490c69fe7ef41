// Rounds activations to 8 bits in groups of kGroup: scale = max|x| / 127,
// q = round-to-nearest-even(x / scale). A group with a NaN or an infinity gets
// NaN as its scale, so that its products are not finite either. Rows go into
// panels (see RoundedRows). Included by isa_<name>.cc only.
#pragma once

#include <cmath>
#include <utility>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/tile_product.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

// A group below this counts as zero: 127 / max would overflow.
inline constexpr float kSmallest = 1e-36f;

// The sums of a group's halves.
inline void SumHalves(const VecI (&q)[kGroup / kLanes], int32_t* halves) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
  // Four lanes of four values each, of both halves side by side.
  const __m128i ones = _mm_set1_epi8(1);
  const auto fours = [&](const VecI& v) {
    return _mm_dpbusd_epi32(_mm_setzero_si128(), ones,
                            _mm512_cvtepi32_epi8(BitCast<__m512i>(v)));
  };
  __m256i sums = _mm256_set_m128i(fours(q[1]), fours(q[0]));
  sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32(sums, 0x4e));
  sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32(sums, 0xb1));
  halves[0] = _mm256_extract_epi32(sums, 0);
  halves[1] = _mm256_extract_epi32(sums, 4);
#else
  constexpr int kVectors = kGroup / kLanes / 2;
  for (int half = 0; half < 2; ++half) {
    VecI total = {};
    for (int i = 0; i < kVectors; ++i) total = total + q[half * kVectors + i];
    halves[half] = Sum(total);
  }
#endif
}

// The largest magnitude of each lane of x [kGroup], as an integer: infinity and
// NaN are above all others.
inline VecI LaneMagnitudes(const float* x) {
  VecI highest = {};
  for (int i = 0; i < kGroup; i += kLanes) {
    const VecI bits = BitCast<VecI>(Load(x + i)) & 0x7fffffff;
    highest = bits > highest ? bits : highest;
  }
  return highest;
}

// x [kGroup] by a scale that is known.
inline void RoundByScale(const float* x, float scale, float inverse,
                         RoundedGroup* group) {
  // Adding 1.5 · 2^23 leaves the rounded integer in the low mantissa bits.
  const Vec magic = Set(12582912.0f);
  VecI q[kGroup / kLanes];
  for (int i = 0; i < kGroup / kLanes; ++i) {
    const Vec shifted = Fma(Load(x + i * kLanes), Set(inverse), magic);
    q[i] = BitCast<VecI>(shifted) - BitCast<VecI>(magic);
    StoreI8(q[i], group->values + i * kLanes);
  }
  int32_t halves[2];
  SumHalves(q, halves);
  const int32_t sum = halves[0] + halves[1];
  group->scale = scale;
  group->sum = scale * static_cast<float>(sum);
  group->offset_8 = -8 * sum;
  group->offset_128 = -128 * sum;
  group->half_offsets[0] = -128 * halves[0];
  group->half_offsets[1] = -128 * halves[1];
}

// x [kGroup].
inline void RoundGroup(const float* x, RoundedGroup* group) {
  float max = BitCast<float>(MaxLane(LaneMagnitudes(x)));
  if (!(max < INFINITY)) {
    *group = {};
    group->scale = group->sum = NAN;
    return;
  }
  if (max < kSmallest) max = 0;
  RoundByScale(x, max / 127.0f, max > 0 ? 127.0f / max : 0.0f, group);
}

// One step of a transposition (tile_product.h) that keeps maxima only: of rows
// i and i + kStep each, the second's go to the lanes with kStep in their index.
template <int kStep>
inline void MaxStep(VecI (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 2 * kStep) {
    Vec a = BitCast<Vec>(rows[i]), b = BitCast<Vec>(rows[i + kStep]);
    ExchangeBlocks<kStep>(a, b, std::make_index_sequence<kLanes>());
    const VecI x = BitCast<VecI>(a), y = BitCast<VecI>(b);
    rows[i] = x > y ? x : y;
  }
}
// Lane i: the largest of rows[i].
inline VecI MaxOfRows(VecI (&rows)[kLanes]) {
  MaxStep<1>(rows);
  MaxStep<2>(rows);
  if constexpr (kLanes > 4) MaxStep<4>(rows);
  if constexpr (kLanes > 8) MaxStep<8>(rows);
  return rows[0];
}

// kLanes groups, `stride` apart: their scales are the lanes of one division.
inline void RoundGroups(const float* x, int64_t stride, RoundedGroup* groups) {
  VecI rows[kLanes];
#pragma GCC unroll 16
  for (int t = 0; t < kLanes; ++t) rows[t] = LaneMagnitudes(x + t * stride);
  const Vec highest = BitCast<Vec>(MaxOfRows(rows));
  float max[kLanes], scale[kLanes], inverse[kLanes];
  Store(highest, max);
  Store(highest / Set(127.0f), scale);
  Store(Set(127.0f) / highest, inverse);
  for (int t = 0; t < kLanes; ++t) {
    if (max[t] >= kSmallest && max[t] < INFINITY) [[likely]] {
      RoundByScale(x + t * stride, scale[t], inverse[t], groups + t);
    } else {
      RoundGroup(x + t * stride, groups + t);
    }
  }
}

// Columns [g, end) of a panel of `size` tokens.
inline void RoundPanel(const float* x, int64_t in_features, int64_t size,
                       int64_t g, int64_t end, RoundedGroup* panel) {
  if (size == 1) {
    for (; g + kLanes <= end; g += kLanes) {
      RoundGroups(x + g * kGroup, kGroup, panel + g);
    }
  }
  // Writes go on line by line; reads are two whole lines at a time.
  for (; g < end; ++g) {
    const float* column = x + g * kGroup;
    RoundedGroup* to = panel + g * size;
    int64_t t = 0;
    for (; t + kLanes <= size; t += kLanes) {
      RoundGroups(column + t * in_features, in_features, to + t);
    }
    for (; t < size; ++t) RoundGroup(column + t * in_features, to + t);
  }
}

template <int kMaxPanel>
inline void RoundRows(const float* in, int64_t in_features, int64_t num_tokens,
                      int64_t begin, int64_t end, RoundedGroup* out) {
  const int64_t groups = in_features / kGroup;
  int64_t token = 0;
  for (int64_t first = 0; first < end; first += groups) {  // of a panel
    if (first + groups > begin) {
      const int64_t left = num_tokens - token;
      RoundPanel(in + token * in_features, in_features,
                 left < kMaxPanel ? left : kMaxPanel,
                 begin > first ? begin - first : 0,
                 end - first < groups ? end - first : groups,
                 out + token * groups);
    }
    token += kMaxPanel;
  }
}

}  // namespace shoal::SHOAL_ISA
