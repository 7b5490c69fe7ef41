// Rounds activations to 8 bits in groups of kGroup: scale = max|x| / 127,
// q = round-to-nearest-even(x / scale). A group with a NaN or an infinity gets
// NaN as its scale, so that its products are not finite either. Rows go into
// panels (see RoundedRows). Included by isa_<name>.cc only.
#pragma once

#include <cmath>

#include "kernels/cpu/cpu_ops.h"
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

// x [kGroup].
inline void RoundGroup(const float* x, RoundedGroup* group) {
  // Adding 1.5 · 2^23 leaves the rounded integer in the low mantissa bits.
  const Vec magic = Set(12582912.0f);
  // Magnitudes compared as integers: infinity and NaN are above all others.
  VecI highest = {};
  for (int i = 0; i < kGroup; i += kLanes) {
    const VecI bits = BitCast<VecI>(Load(x + i)) & 0x7fffffff;
    highest = bits > highest ? bits : highest;
  }
  float max = BitCast<float>(MaxLane(highest));
  if (!(max < INFINITY)) {
    *group = {};
    group->scale = group->sum = NAN;
    return;
  }
  if (max < kSmallest) max = 0;
  const float inverse = max > 0 ? 127.0f / max : 0.0f;
  VecI q[kGroup / kLanes];
  for (int i = 0; i < kGroup / kLanes; ++i) {
    const Vec shifted = Fma(Load(x + i * kLanes), Set(inverse), magic);
    q[i] = BitCast<VecI>(shifted) - BitCast<VecI>(magic);
    StoreI8(q[i], group->values + i * kLanes);
  }
  int32_t halves[2];
  SumHalves(q, halves);
  const int32_t sum = halves[0] + halves[1];
  group->scale = max / 127.0f;
  group->sum = group->scale * static_cast<float>(sum);
  group->offset_8 = -8 * sum;
  group->offset_128 = -128 * sum;
  group->half_offsets[0] = -128 * halves[0];
  group->half_offsets[1] = -128 * halves[1];
}

template <int kMaxPanel>
inline void RoundRows(const float* in, int64_t in_features, int64_t num_tokens,
                      int64_t begin, int64_t end, RoundedGroup* out) {
  const int64_t groups = in_features / kGroup;
  int64_t token = 0;
  for (int64_t panel = 0; panel < end; ++panel) {
    const int size = PanelTokens(num_tokens - token, kMaxPanel);
    const int64_t left = num_tokens - token;
    RoundedGroup* place = out + token * groups;
    // Writes go on line by line; reads are two whole lines at a time.
    for (int64_t g = 0; g < groups && panel >= begin; ++g) {
      for (int t = 0; t < size; ++t, ++place) {
        if (t < left) {
          RoundGroup(in + (token + t) * in_features + g * kGroup, place);
        } else {
          *place = {};  // padding
        }
      }
    }
    token += size;
  }
}

}  // namespace shoal::SHOAL_ISA
