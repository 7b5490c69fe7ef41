// Small dense products c (+)= a · b in 32-bit words, the inner part of every
// attention: a's words are broadcast, b's columns lie across lanes, so there
// are no horizontal sums. A word is one f32, or (kPairs) two neighbouring bf16
// along the summed dimension, whose products are exact and summed in f32. Also
// the packing of rows into b. Included by isa_<name>.cc only.
//
// Each value is summed in one chain in the order of the summed dimension,
// whatever block of rows and columns it is computed in.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/cpu/simd/vec.h"
#include "kernels/dtype.h"

namespace shoal::SHOAL_ISA {

// Accumulators of one block fill the registers but for b's vectors and a word
// of a: 24 + 4 + 1 of 32, or 12 + 2 + 1 of 16.
inline constexpr int kRowBlock = 6;
#if defined(__AVX512F__)
inline constexpr int kColumnBlock = 4;
#else
inline constexpr int kColumnBlock = 2;
#endif

#if defined(__AVX512BF16__)
inline constexpr bool kHasPairs = true;
// c + a's pairs · b's pairs.
inline Vec DotPairs(const Vec& a, const Vec& b, const Vec& c) {
  return BitCast<Vec>(
      _mm512_dpbf16_ps(c, BitCast<__m512bh>(a), BitCast<__m512bh>(b)));
}
// The values of `low`, then those of `high`, rounded to nearest even.
inline Vec RoundToPairs(const Vec& low, const Vec& high) {
  return BitCast<Vec>(_mm512_cvtne2ps_pbh(high, low));
}
#else
inline constexpr bool kHasPairs = false;
inline Vec DotPairs(const Vec&, const Vec&, const Vec& c) { return c; }
inline Vec RoundToPairs(const Vec& low, const Vec&) { return low; }
#endif

inline constexpr int64_t RoundUp(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
template <bool kPairs>
inline constexpr int64_t WordsOf(int64_t elements) {
  return kPairs ? (elements + 1) / 2 : elements;
}

inline Vec BroadcastWord(const float* p) {
  uint32_t word;
  std::memcpy(&word, p, sizeof(word));
  return BitCast<Vec>(word - VecU{});
}

template <bool kPairs>
inline Vec MulAdd(const Vec& a, const Vec& b, const Vec& c) {
  if constexpr (kPairs) {
    return DotPairs(a, b, c);
  } else {
    return Fma(a, b, c);
  }
}

// Where the vectors of b lie: At(d, i) is word d of columns [i, i + 1) ·
// kLanes.
struct PlainOperand {
  const float* words = nullptr;
  int64_t stride = 0;

  const float* At(int64_t d, int64_t i) const {
    return words + d * stride + i * kLanes;
  }
};

// The unrolling is asked for so that the sums are registers from the start.
// `first`: vector of columns.
template <bool kPairs, int kRows, int kColumns, typename Operand>
inline void ProductBlock(const float* a, int64_t a_stride, const Operand& b,
                         int64_t first, int64_t depth, bool accumulate,
                         float* c, int64_t c_stride) {
  Vec sum[kRows][kColumns];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < kColumns; ++i) {
      sum[r][i] = accumulate ? Load(c + r * c_stride + i * kLanes) : Vec{};
    }
  }
  for (int64_t d = 0; d < depth; ++d) {
    Vec columns[kColumns];
#pragma GCC unroll 8
    for (int i = 0; i < kColumns; ++i) {
      columns[i] = Load(b.At(d, first + i));
      KeepInRegister(columns[i]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec word = BroadcastWord(a + r * a_stride + d);
#pragma GCC unroll 8
      for (int i = 0; i < kColumns; ++i) {
        sum[r][i] = MulAdd<kPairs>(word, columns[i], sum[r][i]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < kColumns; ++i) {
      Store(sum[r][i], c + r * c_stride + i * kLanes);
    }
  }
}

template <bool kPairs, int kRows, typename Operand>
inline void ProductRows(const float* a, int64_t a_stride, const Operand& b,
                        int64_t depth, int64_t width, bool accumulate, float* c,
                        int64_t c_stride) {
  int64_t i = 0;
  for (; (i + kColumnBlock) * kLanes <= width; i += kColumnBlock) {
    ProductBlock<kPairs, kRows, kColumnBlock>(
        a, a_stride, b, i, depth, accumulate, c + i * kLanes, c_stride);
  }
  for (; i * kLanes < width; ++i) {
    ProductBlock<kPairs, kRows, 1>(a, a_stride, b, i, depth, accumulate,
                                   c + i * kLanes, c_stride);
  }
}

// c[r][i] (+)= Σ_d a[r][d] · b[d][i] for `rows` rows and `width` columns, a
// multiple of kLanes. Strides are in words.
template <bool kPairs, typename Operand>
inline void TileProduct(int64_t rows, const float* a, int64_t a_stride,
                        const Operand& b, int64_t depth, int64_t width,
                        bool accumulate, float* c, int64_t c_stride) {
  const auto run = [&](auto count) {
    constexpr int kRows = decltype(count)::value;
    ProductRows<kPairs, kRows>(a, a_stride, b, depth, width, accumulate, c,
                               c_stride);
    rows -= kRows;
    a += kRows * a_stride;
    c += kRows * c_stride;
  };
  static_assert(kRowBlock == 6);
  while (rows >= 6) run(std::integral_constant<int, 6>{});
  if (rows == 5) run(std::integral_constant<int, 5>{});
  if (rows == 4) run(std::integral_constant<int, 4>{});
  if (rows == 3) run(std::integral_constant<int, 3>{});
  if (rows == 2) run(std::integral_constant<int, 2>{});
  if (rows == 1) run(std::integral_constant<int, 1>{});
}

// A row of a cache; nullptr stands for zeros.
struct StoredRow {
  const uint8_t* data = nullptr;
  DType dtype = DType::kF32;  // kF32, kBF16 or kF16; kBF16 for pairs
};

// Words [word, word + kLanes) of a row of `width` elements, zeros behind them.
template <bool kPairs>
inline Vec LoadWords(const StoredRow& row, int64_t width, int64_t word) {
  if (row.data == nullptr) return Vec{};
  const int64_t element = kPairs ? 2 * word : word;
  const int64_t size = !kPairs && row.dtype == DType::kF32 ? 4 : 2;
  const uint8_t* p = row.data + element * size;
  uint8_t padded[kLanes * 4];
  if (element + (kPairs ? 2 : 1) * kLanes > width) [[unlikely]] {
    std::memset(padded, 0, sizeof(padded));
    if (width > element) std::memcpy(padded, p, (width - element) * size);
    p = padded;
  }
  if (kPairs || row.dtype == DType::kF32) {
    Vec words;
    std::memcpy(&words, p, sizeof(words));
    return words;
  }
  return row.dtype == DType::kBF16 ? LoadBf16(p) : LoadF16(p);
}

// The same of a row of bf16 that is not short of them.
inline Vec LoadWholeWords(const StoredRow& row, int64_t word) {
  Vec words;
  std::memcpy(&words, row.data + 4 * word, sizeof(words));
  return words;
}

// One step of a transposition: of two rows' blocks of kStep lanes, the second
// of `a` changes places with the first of `b`.
template <int kStep, size_t... kLane>
inline void ExchangeBlocks(Vec& a, Vec& b, std::index_sequence<kLane...>) {
  const Vec low = __builtin_shufflevector(
      a, b, ((kLane & kStep) == 0 ? kLane : kLane - kStep + kLanes)...);
  const Vec high = __builtin_shufflevector(
      a, b, ((kLane & kStep) == 0 ? kLane + kStep : kLane + kLanes)...);
  a = low;
  b = high;
}
template <int kStep>
inline void TransposeStep(Vec (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kStep) != 0) continue;
    ExchangeBlocks<kStep>(rows[i], rows[i + kStep],
                          std::make_index_sequence<kLanes>());
  }
}
// rows[i][j] and rows[j][i] change places.
inline void Transpose(Vec (&rows)[kLanes]) {
  TransposeStep<1>(rows);
  TransposeStep<2>(rows);
  if constexpr (kLanes > 4) TransposeStep<4>(rows);
  if constexpr (kLanes > 8) TransposeStep<8>(rows);
}

// out[w][j] = word w of row j for `count` rows, a multiple of kLanes, and their
// words, whose number is rounded up to kLanes.
template <bool kPairs>
inline void PackColumns(const StoredRow* rows, int64_t count, int64_t width,
                        int64_t out_stride, float* out) {
  const int64_t words = WordsOf<kPairs>(width);
  for (int64_t j = 0; j < count; j += kLanes) {
    const bool whole = kPairs && rows[j + kLanes - 1].data != nullptr;
    for (int64_t w = 0; w < words; w += kLanes) {
      Vec block[kLanes];
      if (whole && 2 * (w + kLanes) <= width) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          block[i] = LoadWholeWords(rows[j + i], w);
        }
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          block[i] = LoadWords<kPairs>(rows[j + i], width, w);
        }
      }
      Transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        Store(block[i], out + (w + i) * out_stride + j);
      }
    }
  }
}

#if defined(__AVX512BF16__)
using Halves = uint16_t __attribute__((vector_size(64)));
template <size_t... kLane>
inline void InterleaveHalves(const Halves& a, const Halves& b, Vec* low,
                             Vec* high, std::index_sequence<kLane...>) {
  *low = BitCast<Vec>(
      __builtin_shufflevector(a, b, (kLane / 2 + kLane % 2 * 32)...));
  *high = BitCast<Vec>(
      __builtin_shufflevector(a, b, (16 + kLane / 2 + kLane % 2 * 32)...));
}
// Words of which the low half is a's element and the high half b's.
inline void Interleave(const Vec& a, const Vec& b, Vec* low, Vec* high) {
  InterleaveHalves(BitCast<Halves>(a), BitCast<Halves>(b), low, high,
                   std::make_index_sequence<32>());
}
#else
inline void Interleave(const Vec& a, const Vec& b, Vec* low, Vec* high) {
  *low = a;
  *high = b;
}
#endif

// out[j][i] = element i of row j, or of rows 2j and 2j + 1 as a pair, for
// `count` rows and `width` columns (rounded up to kLanes, so is out_stride).
template <bool kPairs>
inline void PackRows(const StoredRow* rows, int64_t count, int64_t width,
                     int64_t out_stride, float* out) {
  if constexpr (kPairs) {
    for (int64_t j = 0; j < count; j += 2) {
      const StoredRow second = j + 1 < count ? rows[j + 1] : StoredRow{};
      float* words = out + j / 2 * out_stride;
      int64_t i = 0;
      if (second.data != nullptr) {
        for (; i + 2 * kLanes <= width; i += 2 * kLanes) {
          Vec low, high;
          Interleave(LoadWholeWords(rows[j], i / 2),
                     LoadWholeWords(second, i / 2), &low, &high);
          Store(low, words + i);
          Store(high, words + i + kLanes);
        }
      }
      for (; i < width; i += 2 * kLanes) {
        Vec low, high;
        Interleave(LoadWords<true>(rows[j], width, i / 2),
                   LoadWords<true>(second, width, i / 2), &low, &high);
        Store(low, words + i);
        if (i + kLanes < out_stride) Store(high, words + i + kLanes);
      }
    }
  } else {
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t i = 0; i < width; i += kLanes) {
        Store(LoadWords<false>(rows[j], width, i), out + j * out_stride + i);
      }
    }
  }
}

// Words of an f32 row for use as `a`; `out` has room for a multiple of kLanes.
template <bool kPairs>
inline void PackQuery(const float* x, int64_t n, float* out) {
  if constexpr (kPairs) {
    for (int64_t i = 0; i < n; i += 2 * kLanes) {
      const StoredRow row = {reinterpret_cast<const uint8_t*>(x), DType::kF32};
      Store(RoundToPairs(LoadWords<false>(row, n, i),
                         LoadWords<false>(row, n, i + kLanes)),
            out + i / 2);
    }
  } else {
    std::memcpy(out, x, n * sizeof(float));
  }
}

}  // namespace shoal::SHOAL_ISA
