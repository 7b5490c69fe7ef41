// Integer products on AVX2: eight rows in the lanes of a vector, four weights
// of each row a lane. Included by isa_avx2.cc only.
//
// maddubs multiplies unsigned by signed bytes into 16-bit sums of two:
//   4-bit weights: at most 2 · 15 · 127 a sum, so a whole group of eight sums
//     (30,480) fits 16 bits and is widened once;
//   5-bit weights (kU8Min): 2 · 31 · 127, four sums fit;
//   6-bit signed weights (kS8Half): |w| times x with w's sign, 2 · 32 · 127,
//     four sums fit;
//   8-bit signed weights: likewise, but 2 · 128 · 127 fits just once.
#pragma once

#include "kernels/cpu/simd/int_tile.h"

namespace shoal::SHOAL_ISA {

struct Avx2IntKernel {
  static constexpr int kTileRows = 8;
  static constexpr int kMaxPanel = 4;

  // One tile against one panel: rows [row, row + rows) of kTileRows are real.
  template <IntKind kKind, int kPanel>
  static void Run(const uint8_t* data, const RoundedGroup* x, int64_t groups,
                  int64_t row, int rows, const PanelOut& out) {
    using Group = IntGroup<kKind, kTileRows>;
    __m256 acc[kPanel];
    for (int t = 0; t < kPanel; ++t) acc[t] = _mm256_setzero_ps();
    __m256 super_scale = _mm256_setzero_ps(), super_min = super_scale;
    for (int64_t g = 0; g < groups; ++g) {
      if constexpr (Group::kSuper) {
        if (g % kSuperGroups == 0) {
          super_scale = Halves(data);
          super_min = Halves(data + Group::kScaleBytes);
          data += Group::kSuperHeadBytes;
        }
      }
      PrefetchBytes<Group::kBytes>(data + out.ahead);
      const uint8_t* quants = data + Group::kHeadBytes;
      __m256i dot[kPanel];
      const __m256 scale = Group::kSuper
                               ? _mm256_mul_ps(super_scale, Bytes(data))
                               : Halves(data);
      if constexpr (Group::kNumScales == 2) {
        SmallSignedDot<0>(quants, x, dot);
        AddScaled(scale, x, dot, acc);
        SmallSignedDot<4>(quants, x, dot);
        AddScaled(Halves(data + Group::kScaleBytes), x, dot, acc);
      } else {
        if constexpr (kKind == IntKind::kU4Min || kKind == IntKind::kS4 ||
                      kKind == IntKind::kU4Super) {
          NibbleDot(quants, x, dot);
        } else if constexpr (kKind == IntKind::kTable4) {
          TableDot(quants, x, dot);
        } else if constexpr (kKind == IntKind::kU8Min) {
          UnsignedDot(quants, x, dot);
        } else {
          SignedDot(quants, x, dot);
        }
        AddScaled(scale, x, dot, acc);
      }
      if constexpr (Group::kHasMin || kKind == IntKind::kS4) {
        __m256 min;
        if constexpr (kKind == IntKind::kS4) {
          min = _mm256_mul_ps(scale, _mm256_set1_ps(-8.0f));
        } else if constexpr (Group::kSuper) {
          min =
              _mm256_sub_ps(_mm256_setzero_ps(),
                            _mm256_mul_ps(super_min, Bytes(data + kTileRows)));
        } else {
          min = Halves(data + Group::kScaleBytes);
        }
        for (int t = 0; t < kPanel; ++t) {
          acc[t] = _mm256_fmadd_ps(min, _mm256_broadcast_ss(&x[t].sum), acc[t]);
        }
      }
      data += Group::kBytes;
      x += kPanel;
    }
#pragma GCC unroll 4  // acc has no address then and stays in registers
    for (int t = 0; t < kPanel; ++t) {
      StoreRows(acc[t], out.token + t, row, rows, *out.out);
    }
  }

 private:
  // Values [i, i + 4) in every lane.
  static __m256i Four(const RoundedGroup& x, int i) {
    int32_t four;
    std::memcpy(&four, x.values + i, sizeof(four));
    return _mm256_set1_epi32(four);
  }

  static __m256 Halves(const uint8_t* p) {
    return _mm256_cvtph_ps(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static __m256 Bytes(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static __m256i Quants(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static __m256i Widen(__m256i sums) {
    return _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
  }

  template <int kPanel>
  static void AddScaled(__m256 scale, const RoundedGroup* x,
                        const __m256i (&dot)[kPanel], __m256 (&acc)[kPanel]) {
    for (int t = 0; t < kPanel; ++t) {
      acc[t] = _mm256_fmadd_ps(
          _mm256_mul_ps(scale, _mm256_broadcast_ss(&x[t].scale)),
          _mm256_cvtepi32_ps(dot[t]), acc[t]);
    }
  }

  template <int kPanel>
  static void NibbleDot(const uint8_t* quants, const RoundedGroup* x,
                        __m256i (&dot)[kPanel]) {
    const __m256i mask = _mm256_set1_epi8(15);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const __m256i both = Quants(quants + c * kTileRows * 4);
      const __m256i low = _mm256_and_si256(both, mask);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
      for (int t = 0; t < kPanel; ++t) {
        const __m256i a = _mm256_maddubs_epi16(low, Four(x[t], 8 * c));
        const __m256i b = _mm256_maddubs_epi16(high, Four(x[t], 8 * c + 4));
        const __m256i sum = _mm256_add_epi16(a, b);
        dot[t] = c == 0 ? sum : _mm256_add_epi16(dot[t], sum);
      }
      InOrder(dot);
    }
    for (int t = 0; t < kPanel; ++t) dot[t] = Widen(dot[t]);
  }

  // Keeps the compiler from moving loads of later chunks before this one's
  // products, for which there are no registers.
  template <int kPanel>
  static void InOrder(__m256i (&dot)[kPanel]) {
    for (int t = 0; t < kPanel; ++t) asm volatile("" : "+x"(dot[t]));
  }

  // Adds |w| · (x with w's sign), widened.
  static __m256i AddSigned(__m256i w, __m256i x, __m256i dot) {
    const __m256i product =
        _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(dot, Widen(product));
  }

  template <int kPanel>
  static void TableDot(const uint8_t* quants, const RoundedGroup* x,
                       __m256i (&dot)[kPanel]) {
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i levels = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38,
                      53, 69, 89, 113));
    for (int t = 0; t < kPanel; ++t) dot[t] = _mm256_setzero_si256();
#pragma GCC unroll 1
    for (int c = 0; c < 4; ++c) {
      const __m256i both = Quants(quants + c * kTileRows * 4);
      const __m256i low =
          _mm256_shuffle_epi8(levels, _mm256_and_si256(both, mask));
      const __m256i high = _mm256_shuffle_epi8(
          levels, _mm256_and_si256(_mm256_srli_epi16(both, 4), mask));
      for (int t = 0; t < kPanel; ++t) {
        dot[t] = AddSigned(low, Four(x[t], 8 * c), dot[t]);
        dot[t] = AddSigned(high, Four(x[t], 8 * c + 4), dot[t]);
      }
    }
  }

  template <int kPanel>
  static void UnsignedDot(const uint8_t* quants, const RoundedGroup* x,
                          __m256i (&dot)[kPanel]) {
    __m256i half[kPanel];
    for (int first = 0; first < 8; first += 4) {
#pragma GCC unroll 4
      for (int c = first; c < first + 4; ++c) {
        const __m256i w = Quants(quants + c * kTileRows * 4);
        for (int t = 0; t < kPanel; ++t) {
          const __m256i sum = _mm256_maddubs_epi16(w, Four(x[t], 4 * c));
          half[t] = c == first ? sum : _mm256_add_epi16(half[t], sum);
        }
        InOrder(half);
      }
      for (int t = 0; t < kPanel; ++t) {
        const __m256i sum = Widen(half[t]);
        dot[t] = first == 0 ? sum : _mm256_add_epi32(dot[t], sum);
      }
    }
  }

  // Chunks [kFirst, kFirst + 4) of weights within ±32.
  template <int kFirst, int kPanel>
  static void SmallSignedDot(const uint8_t* quants, const RoundedGroup* x,
                             __m256i (&dot)[kPanel]) {
#pragma GCC unroll 4
    for (int c = kFirst; c < kFirst + 4; ++c) {
      const __m256i w = Quants(quants + c * kTileRows * 4);
      const __m256i magnitude = _mm256_abs_epi8(w);
      for (int t = 0; t < kPanel; ++t) {
        const __m256i sum = _mm256_maddubs_epi16(
            magnitude, _mm256_sign_epi8(Four(x[t], 4 * c), w));
        dot[t] = c == kFirst ? sum : _mm256_add_epi16(dot[t], sum);
      }
      InOrder(dot);
    }
    for (int t = 0; t < kPanel; ++t) dot[t] = Widen(dot[t]);
  }

  template <int kPanel>
  static void SignedDot(const uint8_t* quants, const RoundedGroup* x,
                        __m256i (&dot)[kPanel]) {
    for (int t = 0; t < kPanel; ++t) dot[t] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c) {
      const __m256i w = Quants(quants + c * kTileRows * 4);
      for (int t = 0; t < kPanel; ++t) {
        dot[t] = AddSigned(w, Four(x[t], 4 * c), dot[t]);
      }
      InOrder(dot);
    }
  }
};

}  // namespace shoal::SHOAL_ISA
