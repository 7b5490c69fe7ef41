// Integer products on AVX-512 VNNI: sixteen rows in the lanes of a vector, four
// weights of each row a lane; dpbusd adds four products of unsigned weights and
// signed activations to a lane. Weights are unpacked into eight registers once
// a group for a panel of up to sixteen tokens, whose sums take sixteen more;
// with dots of four tokens under way and the scales that fills all 32. Signed
// weights get 8 or 128 added, and the dot starts from what that adds to it
// (RoundedGroup's offsets). Included by isa_avx512.cc only.
#pragma once

#include "kernels/cpu/simd/int_tile.h"

namespace shoal::SHOAL_ISA {

struct Avx512IntKernel {
  static constexpr int kTileRows = 16;
  static constexpr int kMaxPanel = 16;

  // One tile against one panel: rows [row, row + rows) of kTileRows are real.
  template <IntKind kKind, int kPanel>
  static void Run(const uint8_t* data, const RoundedGroup* x, int64_t groups,
                  int64_t row, int rows, const PanelOut& out) {
    using Group = IntGroup<kKind, kTileRows>;
    __m512 acc[kPanel];
#pragma GCC unroll 16
    for (int t = 0; t < kPanel; ++t) acc[t] = _mm512_setzero_ps();
    __m512 super_scale = _mm512_setzero_ps(), super_min = super_scale;
    for (int64_t g = 0; g < groups; ++g, x += kPanel) {
      if constexpr (Group::kSuper) {
        if (g % kSuperGroups == 0) {
          super_scale = Halves(data);
          super_min = Halves(data + Group::kScaleBytes);
          data += Group::kSuperHeadBytes;
        }
      }
      PrefetchBytes<Group::kBytes>(data + out.ahead);
      __m512i w[kChunks];
      Unpack<kKind>(data + Group::kHeadBytes, w);
      const __m512 scale = Group::kSuper
                               ? _mm512_mul_ps(super_scale, Bytes(data))
                               : Halves(data);
      if constexpr (Group::kNumScales == 2) {
        AddDots<kKind, 0, 4>(w, scale, x, acc);
        AddDots<kKind, 4, 8>(w, Halves(data + Group::kScaleBytes), x, acc);
      } else {
        AddDots<kKind, 0, 8>(w, scale, x, acc);
      }
      if constexpr (Group::kHasMin) {
        const __m512 min =
            Group::kSuper ? _mm512_mul_ps(super_min,
                                          _mm512_mul_ps(Bytes(data + kTileRows),
                                                        _mm512_set1_ps(-1.0f)))
                          : Halves(data + Group::kScaleBytes);
#pragma GCC unroll 16
        for (int t = 0; t < kPanel; ++t) {
          acc[t] = _mm512_fmadd_ps(min, _mm512_set1_ps(x[t].sum), acc[t]);
        }
      }
      data += Group::kBytes;
    }
#pragma GCC unroll 16  // acc has no address then and stays in registers
    for (int t = 0; t < kPanel; ++t) {
      StoreRows(acc[t], out.token + t, row, rows, *out.out);
    }
  }

 private:
  static constexpr int kChunks = kGroup / 4;  // of four weights a row
  // Dots under way at a time: as many chains as hide dpbusd's latency.
  static constexpr int kDots = 4;

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

  // A group's weights as unsigned bytes.
  template <IntKind kKind>
  static void Unpack(const uint8_t* quants, __m512i (&w)[kChunks]) {
    if constexpr (IntGroup<kKind, kTileRows>::kFourBit) {
      const __m512i mask = _mm512_set1_epi8(15);
#pragma GCC unroll 4
      for (int c = 0; c < kChunks / 2; ++c) {
        const __m512i both = _mm512_loadu_si512(quants + c * kTileRows * 4);
        w[2 * c] = _mm512_and_si512(both, mask);
        w[2 * c + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
        if constexpr (kKind == IntKind::kTable4) {
          // kIq4Levels plus 128.
          const __m512i levels = _mm512_broadcast_i32x4(
              _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, -127, -115, -103,
                            -90, -75, -59, -39, -15));
          w[2 * c] = _mm512_shuffle_epi8(levels, w[2 * c]);
          w[2 * c + 1] = _mm512_shuffle_epi8(levels, w[2 * c + 1]);
        }
      }
    } else {
#pragma GCC unroll 8
      for (int c = 0; c < kChunks; ++c) {
        w[c] = _mm512_loadu_si512(quants + c * kTileRows * 4);
        if constexpr (kKind != IntKind::kU8Min) {
          w[c] =
              _mm512_xor_si512(w[c], _mm512_set1_epi8(static_cast<char>(0x80)));
        }
      }
    }
  }

  // What a dot of chunks from kFirst on starts from.
  template <IntKind kKind, int kFirst>
  static __m512i Start(const RoundedGroup& x) {
    if constexpr (kKind == IntKind::kS4) {
      return _mm512_set1_epi32(x.offset_8);
    } else if constexpr (kKind == IntKind::kS8Half) {
      return _mm512_set1_epi32(x.half_offsets[kFirst / 4]);
    } else if constexpr (kKind == IntKind::kS8 || kKind == IntKind::kTable4) {
      return _mm512_set1_epi32(x.offset_128);
    } else {
      return _mm512_setzero_si512();
    }
  }

  // Adds scaled dots of chunks [kFirst, kLast), for tokens from kToken on.
  template <IntKind kKind, int kFirst, int kLast, int kToken = 0, int kPanel>
  [[gnu::always_inline]] static void AddDots(const __m512i (&w)[kChunks],
                                             __m512 scale,
                                             const RoundedGroup* x,
                                             __m512 (&acc)[kPanel]) {
    constexpr int kTogether = kPanel - kToken < kDots ? kPanel - kToken : kDots;
    __m512i dot[kTogether];
#pragma GCC unroll 4
    for (int t = 0; t < kTogether; ++t) {
      dot[t] = Start<kKind, kFirst>(x[kToken + t]);
    }
#pragma GCC unroll 8
    for (int c = kFirst; c < kLast; ++c) {
#pragma GCC unroll 4
      for (int t = 0; t < kTogether; ++t) {
        dot[t] = _mm512_dpbusd_epi32(dot[t], w[c],
                                     Four(x[kToken + t].values + 4 * c));
      }
    }
#pragma GCC unroll 4
    for (int t = 0; t < kTogether; ++t) {
      acc[kToken + t] = _mm512_fmadd_ps(
          _mm512_mul_ps(scale, _mm512_set1_ps(x[kToken + t].scale)),
          _mm512_cvtepi32_ps(dot[t]), acc[kToken + t]);
    }
    if constexpr (kToken + kTogether < kPanel) {
      AddDots<kKind, kFirst, kLast, kToken + kTogether>(w, scale, x, acc);
    }
  }
};

}  // namespace shoal::SHOAL_ISA
