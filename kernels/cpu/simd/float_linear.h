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

// kRows weight rows against kTokens tokens.
template <DType kType, int kRows, int kTokens>
inline void FloatTile(const uint8_t* weight, const float* in, int64_t n,
                      int64_t token, int64_t row, const LinearOut& out) {
  using Weight = FloatWeight<kType>;
  const int64_t row_bytes = n * Weight::kBytes;
  Vec sum[kRows][kTokens] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Vec w[kRows];
    for (int r = 0; r < kRows; ++r) {
      w[r] = Weight::LoadVec(weight + r * row_bytes + i * Weight::kBytes);
    }
    for (int t = 0; t < kTokens; ++t) {
      const Vec x = Load(in + t * n + i);
      for (int r = 0; r < kRows; ++r) sum[r][t] = Fma(w[r], x, sum[r][t]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) {
      float value = Sum(sum[r][t]);
      for (int64_t k = i; k < n; ++k) {
        value += Weight::LoadOne(weight + r * row_bytes + k * Weight::kBytes) *
                 in[t * n + k];
      }
      StoreResult(out, token + t, row + r, value);
    }
  }
}

template <DType kType>
inline void FloatLinearTyped(const FloatRows& weight, const float* in,
                             int64_t num_tokens, const LinearOut& out,
                             int64_t begin, int64_t end) {
  const int64_t n = weight.in_features;
  const auto* data = static_cast<const uint8_t*>(weight.data);
  const int64_t row_bytes = n * FloatWeight<kType>::kBytes;
  // Tokens that stay in the second-level cache while the rows pass by.
  const int64_t block = 64;
  for (int64_t t0 = 0; t0 < num_tokens; t0 += block) {
    const int64_t t1 = t0 + block < num_tokens ? t0 + block : num_tokens;
    int64_t row = begin;
    for (; row + 4 <= end; row += 4) {
      const uint8_t* w = data + row * row_bytes;
      int64_t t = t0;
      for (; t + 4 <= t1; t += 4) {
        FloatTile<kType, 2, 4>(w, in + t * n, n, t, row, out);
        FloatTile<kType, 2, 4>(w + 2 * row_bytes, in + t * n, n, t, row + 2,
                               out);
      }
      for (; t < t1; ++t) {
        FloatTile<kType, 4, 1>(w, in + t * n, n, t, row, out);
      }
    }
    for (; row < end; ++row) {
      const uint8_t* w = data + row * row_bytes;
      int64_t t = t0;
      for (; t + 4 <= t1; t += 4) {
        FloatTile<kType, 1, 4>(w, in + t * n, n, t, row, out);
      }
      for (; t < t1; ++t) {
        FloatTile<kType, 1, 1>(w, in + t * n, n, t, row, out);
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
