// Integer products on AVX-512 VNNI: sixteen rows in the lanes of a vector, four
// weights of each row a lane; dpbusd adds four products of unsigned weights and
// signed activations to a lane. Signed weights get 128 added on the fly, and
// the dot starts from what that adds to it (RoundedGroup::offsets).
// Included by isa_avx512.cc only.
#pragma once

#include "kernels/cpu/simd/int_tile.h"

namespace shoal::SHOAL_ISA {

inline constexpr int kTileRows = 16;

struct Avx512IntKernel {
  template <IntKind kKind, int kTokens>
  void Run(const uint8_t* data, const RoundedRows& in, int64_t token,
           int64_t row, int rows, const LinearOut& out) const {
    using Group = IntGroup<kKind, kTileRows>;
    const int64_t groups = in.in_features / kGroup;
    const RoundedGroup* x[kTokens];
    __m512 acc[kTokens];
    for (int t = 0; t < kTokens; ++t) {
      x[t] = in.groups + (token + t) * groups;
      acc[t] = _mm512_setzero_ps();
    }
    __m512 super_scale = _mm512_setzero_ps(), super_min = super_scale;
    for (int64_t g = 0; g < groups; ++g) {
      if constexpr (Group::kSuper) {
        if (g % kSuperGroups == 0) {
          super_scale = Halves(data);
          super_min = Halves(data + Group::kScaleBytes);
          data += Group::kSuperHeadBytes;
        }
      }
      const uint8_t* quants = data + Group::kHeadBytes;
      __m512i dot[kTokens];
      const __m512 scale = Group::kSuper
                               ? _mm512_mul_ps(super_scale, Bytes(data))
                               : Halves(data);
      if constexpr (Group::kNumScales == 2) {
        Dot<kKind, 0, 4>(quants, x, dot);
        AddScaled(scale, x, dot, acc);
        Dot<kKind, 4, 8>(quants, x, dot);
        AddScaled(Halves(data + Group::kScaleBytes), x, dot, acc);
      } else {
        Dot<kKind, 0, Group::kChunks>(quants, x, dot);
        AddScaled(scale, x, dot, acc);
      }
      if constexpr (Group::kHasMin || kKind == IntKind::kS4) {
        __m512 min;
        if constexpr (kKind == IntKind::kS4) {
          min = _mm512_mul_ps(scale, _mm512_set1_ps(-8.0f));
        } else if constexpr (Group::kSuper) {
          min = _mm512_mul_ps(super_min, _mm512_mul_ps(Bytes(data + kTileRows),
                                                       _mm512_set1_ps(-1.0f)));
        } else {
          min = Halves(data + Group::kScaleBytes);
        }
        for (int t = 0; t < kTokens; ++t) {
          acc[t] = _mm512_fmadd_ps(min, _mm512_set1_ps(x[t]->sum), acc[t]);
        }
      }
      data += Group::kBytes;
      for (int t = 0; t < kTokens; ++t) ++x[t];
    }
#pragma GCC unroll 8  // acc has no address then and stays in registers
    for (int t = 0; t < kTokens; ++t) {
      float values[kTileRows];
      _mm512_storeu_ps(values, acc[t]);
      StoreTile<kTileRows>(values, token + t, row, rows, out);
    }
  }

 private:
  static __m512 Halves(const uint8_t* p) {
    return _mm512_cvtph_ps(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static __m512 Bytes(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  // Four activations in every lane.
  static __m512i Four(const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, sizeof(four));
    return _mm512_set1_epi32(four);
  }

  template <int kTokens>
  static void AddScaled(__m512 scale, const RoundedGroup* const (&x)[kTokens],
                        const __m512i (&dot)[kTokens], __m512 (&acc)[kTokens]) {
    for (int t = 0; t < kTokens; ++t) {
      acc[t] =
          _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(x[t]->scale)),
                          _mm512_cvtepi32_ps(dot[t]), acc[t]);
    }
  }

  // Dots of chunks [kFirst, kLast) with the weights' true values.
  template <IntKind kKind, int kFirst, int kLast, int kTokens>
  static void Dot(const uint8_t* quants,
                  const RoundedGroup* const (&x)[kTokens],
                  __m512i (&dot)[kTokens]) {
    using Group = IntGroup<kKind, kTileRows>;
    constexpr bool kSigned = kKind == IntKind::kTable4 ||
                             kKind == IntKind::kS8 || kKind == IntKind::kS8Half;
    const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
    for (int t = 0; t < kTokens; ++t) {
      dot[t] = _mm512_setzero_si512();
      if constexpr (kSigned) {
        constexpr int kHalf = Group::kNumScales == 2 ? kFirst / 4 : 0;
        dot[t] = _mm512_set1_epi32(x[t]->offsets[kHalf]);
        if constexpr (Group::kNumScales == 1) {
          dot[t] =
              _mm512_add_epi32(dot[t], _mm512_set1_epi32(x[t]->offsets[1]));
        }
      }
    }
#pragma GCC unroll 8
    for (int c = kFirst; c < kLast; ++c) {
      const __m512i w = _mm512_loadu_si512(quants + c * kTileRows * 4);
      if constexpr (Group::kFourBit) {
        const __m512i mask = _mm512_set1_epi8(15);
        __m512i low = _mm512_and_si512(w, mask);
        __m512i high = _mm512_and_si512(_mm512_srli_epi16(w, 4), mask);
        if constexpr (kKind == IntKind::kTable4) {
          const __m512i levels = _mm512_broadcast_i32x4(
              _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25,
                            38, 53, 69, 89, 113));
          low = _mm512_xor_si512(_mm512_shuffle_epi8(levels, low), flip);
          high = _mm512_xor_si512(_mm512_shuffle_epi8(levels, high), flip);
        }
        for (int t = 0; t < kTokens; ++t) {
          dot[t] = _mm512_dpbusd_epi32(dot[t], low, Four(x[t]->values + 8 * c));
          dot[t] =
              _mm512_dpbusd_epi32(dot[t], high, Four(x[t]->values + 8 * c + 4));
        }
      } else {
        const __m512i u = kSigned ? _mm512_xor_si512(w, flip) : w;
        for (int t = 0; t < kTokens; ++t) {
          dot[t] = _mm512_dpbusd_epi32(dot[t], u, Four(x[t]->values + 4 * c));
        }
      }
    }
  }
};

}  // namespace shoal::SHOAL_ISA
