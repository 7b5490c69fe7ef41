// Products with weights that are plain floats, in place, activations in f32.
// A value is one vector accumulator along the row plus a tail, whatever the
// blocking, so it does not depend on the batch. Included by isa_<name>.cc only.
#pragma once

#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

template <DType kType>
struct FloatWeight {
  static constexpr int kBytes = kType == DType::kF32 ? 4 : 2;
  static Vec LoadVec(const uint8_t* p) {
    if constexpr (kType == DType::kF32) {
      Vec v;
      std::memcpy(&v, p, sizeof(v));
      return v;
    } else if constexpr (kType == DType::kBF16) {
      return LoadBf16(p);
    } else {
      return LoadF16(p);
    }
  }
  static float LoadOne(const uint8_t* p) {
    if constexpr (kType == DType::kF32) {
      float x;
      std::memcpy(&x, p, sizeof(x));
      return x;
    } else {
      uint16_t bits;
      std::memcpy(&bits, p, sizeof(bits));
      return kType == DType::kBF16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
    }
  }
};

inline void StoreResult(const LinearOut& out, int64_t token, int64_t row,
                        float value) {
  float* place = out.out + token * out.stride + row;
  if (out.bias != nullptr) value += out.bias[row];
  *place = out.accumulate ? *place + value : value;
}

// Puts values of one token, for `rows` rows from `row` on but at most a
// vector's (none if negative), in their places. Inlined, or the values would
// pass through memory; under a mask, because a second way for the last rows,
// copied for each of a kernel's sums, was four fifths of the code.
[[gnu::always_inline]] inline void StoreRows(const Vec& values, int64_t token,
                                             int64_t row, int64_t rows,
                                             const LinearOut& out) {
#if defined(__AVX512F__)
  const int64_t count = rows < 0 ? 0 : rows < kLanes ? rows : kLanes;
  const auto real = static_cast<__mmask16>((1u << count) - 1);
  float* place = out.out + token * out.stride + row;
  Vec value = values;
  if (out.bias != nullptr) {
    value = value + _mm512_maskz_loadu_ps(real, out.bias + row);
  }
  if (out.accumulate) value = _mm512_maskz_loadu_ps(real, place) + value;
  _mm512_mask_storeu_ps(place, real, value);
#else
  if (rows < kLanes) [[unlikely]] {
    for (int64_t r = 0; r < rows; ++r) {
      StoreResult(out, token, row + r, values[r]);
    }
    return;
  }
  float* place = out.out + token * out.stride + row;
  Vec value = values;
  if (out.bias != nullptr) value = value + Load(out.bias + row);
  if (out.accumulate) value = Load(place) + value;
  Store(value, place);
#endif
}

// Weight rows and tokens whose accumulators fill the registers together.
#if defined(__AVX512F__)
inline constexpr int kFloatRows = 4;
#else
inline constexpr int kFloatRows = 2;
#endif
inline constexpr int kFloatTokens = 6;
// Weight rows that pass by while a group of tokens stays in the first-level
// cache, and the most elements of a token that do so.
inline constexpr int kFloatChunk = 32;
inline constexpr int64_t kFloatDepth = 768;
// Bytes of tokens that stay in the second-level cache while all rows pass by.
inline constexpr int64_t kFloatCache = 128 << 10;

// Adds elements [begin, end) of kRows weight rows against kTokens tokens to
// sums [kRows, kTokens].
template <DType kType, int kRows, int kTokens>
inline void FloatTile(const uint8_t* weight, const float* in, int64_t n,
                      int64_t begin, int64_t end, Vec* sums) {
  using Weight = FloatWeight<kType>;
  const int64_t row_bytes = n * Weight::kBytes;
  Vec sum[kRows][kTokens];
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) sum[r][t] = sums[r * kTokens + t];
  }
  for (int64_t i = begin; i < end; i += kLanes) {
    Vec w[kRows];
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* p = weight + r * row_bytes + i * Weight::kBytes;
      w[r] = Weight::LoadVec(p);
      // The processor foresees nothing across rows.
      __builtin_prefetch(p + kRows * row_bytes);
    }
    for (int t = 0; t < kTokens; ++t) {
      Vec x = Load(in + t * n + i);
      // Not an operand in memory of each of kRows products: loads are what this
      // loop has least of.
      if constexpr (kRows > 1) KeepInRegister(x);
      for (int r = 0; r < kRows; ++r) sum[r][t] = Fma(w[r], x, sum[r][t]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) sums[r * kTokens + t] = sum[r][t];
  }
}

// kTokens tokens from `token` on against rows [begin, end), at most
// kFloatChunk.
template <DType kType, int kTokens>
inline void FloatChunk(const FloatRows& weight, const float* in, int64_t token,
                       const LinearOut& out, int64_t begin, int64_t end) {
  using Weight = FloatWeight<kType>;
  constexpr int kRows = kTokens == 1 ? 4 : kFloatRows;
  const int64_t n = weight.in_features;
  const int64_t whole = n / kLanes * kLanes;
  const int64_t row_bytes = n * Weight::kBytes;
  const uint8_t* data =
      static_cast<const uint8_t*>(weight.data) + begin * row_bytes;
  const float* x = in + token * n;
  const int64_t rows = end - begin;
  Vec sums[kFloatChunk * kTokens] = {};
  const int64_t passes = (whole + kFloatDepth - 1) / kFloatDepth;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = whole / kLanes * pass / passes * kLanes;
    const int64_t last = whole / kLanes * (pass + 1) / passes * kLanes;
    int64_t r = 0;
    for (; r + kRows <= rows; r += kRows) {
      FloatTile<kType, kRows, kTokens>(data + r * row_bytes, x, n, first, last,
                                       sums + r * kTokens);
    }
    for (; r < rows; ++r) {
      FloatTile<kType, 1, kTokens>(data + r * row_bytes, x, n, first, last,
                                   sums + r * kTokens);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int t = 0; t < kTokens; ++t) {
      float value = Sum(sums[r * kTokens + t]);
      for (int64_t i = whole; i < n; ++i) {
        value += Weight::LoadOne(data + r * row_bytes + i * Weight::kBytes) *
                 x[t * n + i];
      }
      StoreResult(out, token + t, begin + r, value);
    }
  }
}

template <DType kType>
inline void FloatTokens(const FloatRows& weight, const float* in, int64_t token,
                        int64_t num_tokens, const LinearOut& out, int64_t begin,
                        int64_t end) {
  switch (num_tokens) {
    case 1:
      return FloatChunk<kType, 1>(weight, in, token, out, begin, end);
    case 2:
      return FloatChunk<kType, 2>(weight, in, token, out, begin, end);
    case 3:
      return FloatChunk<kType, 3>(weight, in, token, out, begin, end);
    case 4:
      return FloatChunk<kType, 4>(weight, in, token, out, begin, end);
    case 5:
      return FloatChunk<kType, 5>(weight, in, token, out, begin, end);
    default:
      return FloatChunk<kType, kFloatTokens>(weight, in, token, out, begin,
                                             end);
  }
}

template <DType kType>
inline void FloatLinearTyped(const FloatRows& weight, const float* in,
                             int64_t num_tokens, const LinearOut& out,
                             int64_t begin, int64_t end) {
  // Groups of tokens as even as can be: 8 are 4 and 4, not 6 and 2.
  const int64_t groups = (num_tokens + kFloatTokens - 1) / kFloatTokens;
  const int64_t group_bytes = kFloatTokens * 4 * (weight.in_features + 1);
  const int64_t block =
      kFloatCache > group_bytes ? kFloatCache / group_bytes : 1;
  for (int64_t g0 = 0; g0 < groups; g0 += block) {
    const int64_t g1 = g0 + block < groups ? g0 + block : groups;
    for (int64_t row = begin; row < end; row += kFloatChunk) {
      const int64_t last = row + kFloatChunk < end ? row + kFloatChunk : end;
      for (int64_t g = g0; g < g1; ++g) {
        const int64_t token = num_tokens * g / groups;
        const int64_t next = num_tokens * (g + 1) / groups;
        FloatTokens<kType>(weight, in, token, next - token, out, row, last);
      }
    }
  }
}

inline void FloatLinear(const FloatRows& weight, const float* in,
                        int64_t num_tokens, const LinearOut& out, int64_t begin,
                        int64_t end) {
  switch (weight.dtype) {
    case DType::kF32:
      return FloatLinearTyped<DType::kF32>(weight, in, num_tokens, out, begin,
                                           end);
    case DType::kBF16:
      return FloatLinearTyped<DType::kBF16>(weight, in, num_tokens, out, begin,
                                            end);
    default:
      return FloatLinearTyped<DType::kF16>(weight, in, num_tokens, out, begin,
                                           end);
  }
}

}  // namespace shoal::SHOAL_ISA
