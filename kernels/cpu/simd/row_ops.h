// Row-wise ops on Vec; see kernels/elementwise.h and kernels/attention.h for
// their formulas. Included by isa_<name>.cc only.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

inline void RmsNormRows(const RmsNormParams& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* x = p.in + row * p.in_stride;
    float* y = p.out + row * p.out_stride;
    Vec squares = {};
    int64_t i = 0;
    for (; i + kLanes <= p.width; i += kLanes) {
      const Vec v = Load(x + i);
      squares = Fma(v, v, squares);
    }
    float sum = Sum(squares);
    for (; i < p.width; ++i) sum += x[i] * x[i];
    const float scale =
        1.0f / std::sqrt(sum / static_cast<float>(p.width) + p.eps);
    const Vec scales = Set(scale);
    for (i = 0; i + kLanes <= p.width; i += kLanes) {
      Vec v = Load(x + i) * scales;
      if (p.weight != nullptr) v = v * Load(p.weight + i);
      Store(v, y + i);
    }
    for (; i < p.width; ++i) {
      const float v = x[i] * scale;
      y[i] = p.weight != nullptr ? v * p.weight[i] : v;
    }
  }
}

inline void LayerNormRows(const LayerNormParams& p, int64_t begin,
                          int64_t end) {
  const auto width = static_cast<float>(p.width);
  for (int64_t row = begin; row < end; ++row) {
    const float* x = p.in + row * p.width;
    float* y = p.out + row * p.width;
    float sum = 0;
    for (int64_t i = 0; i < p.width; ++i) sum += x[i];
    const float mean = sum / width;
    float squares = 0;
    for (int64_t i = 0; i < p.width; ++i) {
      squares += (x[i] - mean) * (x[i] - mean);
    }
    const float scale = 1.0f / std::sqrt(squares / width + p.eps);
    for (int64_t i = 0; i < p.width; ++i) {
      y[i] = (x[i] - mean) * scale * p.weight[i] + p.bias[i];
    }
  }
}

inline void RopeTokens(const RopeParams& p, int64_t begin, int64_t end) {
  const int half = p.rotary_dim / 2;
  const float sign = p.inverse ? -1.0f : 1.0f;
  for (int64_t t = begin; t < end; ++t) {
    const float* cos = p.cos + t * half;
    const float* sin = p.sin + t * half;
    for (int head = 0; head < p.num_heads; ++head) {
      float* x =
          p.x + t * p.token_stride + int64_t{head} * p.head_dim + p.offset;
      if (p.layout == RopeLayout::kHalfSplit) {
        float* y = x + half;
        int i = 0;
        for (; i + kLanes <= half; i += kLanes) {
          const Vec a = Load(x + i), b = Load(y + i), c = Load(cos + i);
          const Vec s = Load(sin + i) * Set(sign);
          Store(a * c - b * s, x + i);
          Store(b * c + a * s, y + i);
        }
        for (; i < half; ++i) {
          const float a = x[i], b = y[i], s = sin[i] * sign;
          x[i] = a * cos[i] - b * s;
          y[i] = b * cos[i] + a * s;
        }
      } else {
        for (int i = 0; i < half; ++i) {
          const float a = x[2 * i], b = x[2 * i + 1], s = sin[i] * sign;
          x[2 * i] = a * cos[i] - b * s;
          x[2 * i + 1] = b * cos[i] + a * s;
        }
      }
    }
  }
}

inline void SiluMulTokens(const SiluMulParams& p, int64_t begin, int64_t end) {
  const int64_t first = begin * p.width;
  const int64_t last = end * p.width;
  const auto block = [&p](Vec gate, Vec up) {
    if (p.limit > 0) {
      const Vec limit = Set(p.limit);
      gate = gate < limit ? gate : limit;
      up = up < limit ? up : limit;
      up = up > -limit ? up : -limit;
    }
    return gate / (Set(1.0f) + Exp(-gate)) * up;
  };
  int64_t i = first;
  for (; i + kLanes <= last; i += kLanes) {
    Store(block(Load(p.gate + i), Load(p.up + i)), p.out + i);
  }
  if (i < last) {  // the same arithmetic on a padded vector
    float gate[kLanes] = {}, up[kLanes] = {}, out[kLanes];
    std::memcpy(gate, p.gate + i, (last - i) * sizeof(float));
    std::memcpy(up, p.up + i, (last - i) * sizeof(float));
    Store(block(Load(gate), Load(up)), out);
    std::memcpy(p.out + i, out, (last - i) * sizeof(float));
  }
}

// `n` values of f32 into `dtype` (f32, bf16 or f16).
inline void StoreRow(const float* x, int64_t n, DType dtype, void* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, x, n * sizeof(float));
    return;
  }
  auto* halves = static_cast<uint16_t*>(out);
  int64_t i = 0;
  for (; i < n; i += kLanes) {
    float padded[kLanes] = {};
    const int64_t count = n - i < kLanes ? n - i : kLanes;
    std::memcpy(padded, x + i, count * sizeof(float));
    uint16_t narrow[kLanes];
    if (dtype == DType::kBF16) {
      StoreBf16(Load(padded), narrow);
    } else {
#if defined(__AVX512F__)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(narrow),
                          _mm512_cvtps_ph(Load(padded), 0));
#elif defined(__AVX2__)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(narrow),
                       _mm256_cvtps_ph(Load(padded), 0));
#else
      for (int j = 0; j < kLanes; ++j) narrow[j] = FloatToF16(padded[j]);
#endif
    }
    std::memcpy(halves + i, narrow, count * sizeof(uint16_t));
  }
}

// `n` values of `dtype` (f32, bf16 or f16) as f32.
inline void LoadRow(const void* x, int64_t n, DType dtype, float* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, x, n * sizeof(float));
    return;
  }
  const auto* halves = static_cast<const uint16_t*>(x);
  const bool bf16 = dtype == DType::kBF16;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Store(bf16 ? LoadBf16(halves + i) : LoadF16(halves + i), out + i);
  }
  for (; i < n; ++i) {
    out[i] = bf16 ? Bf16ToFloat(halves[i]) : F16ToFloat(halves[i]);
  }
}

}  // namespace shoal::SHOAL_ISA
