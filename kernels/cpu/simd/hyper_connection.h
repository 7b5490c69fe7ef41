// Mixing of residual streams; see kernels/hyper_connection.h. Included by
// isa_<name>.cc only.
#pragma once

#include <cmath>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

inline float Sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// Divides groups of m values, `step` apart within and `stride` apart between
// groups, by (their sum + eps).
inline void NormalizeGroups(float* c, int32_t m, int32_t stride, int32_t step,
                            float eps) {
  for (int32_t i = 0; i < m; ++i) {
    float sum = 0;
    for (int32_t j = 0; j < m; ++j) sum += c[i * stride + j * step];
    for (int32_t j = 0; j < m; ++j) c[i * stride + j * step] /= sum + eps;
  }
}

// u: m rows of m mixing values of one token; base: likewise.
inline void Sinkhorn(const HyperMixParams& p, const float* u, const float* base,
                     float* c) {
  const int32_t m = p.m;
  for (int32_t i = 0; i < m; ++i) {
    float max = -INFINITY, sum = 0;
    for (int32_t j = 0; j < m; ++j) {
      c[i * m + j] = u[i * m + j] * p.scale[2] + base[i * m + j];
      max = c[i * m + j] > max ? c[i * m + j] : max;
    }
    for (int32_t j = 0; j < m; ++j) {
      c[i * m + j] = std::exp(c[i * m + j] - max);
      sum += c[i * m + j];
    }
    for (int32_t j = 0; j < m; ++j) c[i * m + j] = c[i * m + j] / sum + p.eps;
  }
  NormalizeGroups(c, m, 1, m, p.eps);  // columns
  for (int32_t i = 1; i < p.sinkhorn_iters; ++i) {
    NormalizeGroups(c, m, m, 1, p.eps);
    NormalizeGroups(c, m, 1, m, p.eps);
  }
}

inline void HyperMixTokens(const HyperMixParams& p, int64_t begin,
                           int64_t end) {
  const int32_t m = p.m;
  const int64_t width = p.post == nullptr ? m : (2 + m) * m;
  for (int64_t t = begin; t < end; ++t) {
    const float* u = p.mixing + t * width;
    float pre[kMaxStreams];
    for (int32_t j = 0; j < m; ++j) {
      pre[j] = Sigmoid(u[j] * p.scale[0] + p.base[j]) + p.eps;
    }
    if (p.post != nullptr) {
      for (int32_t j = 0; j < m; ++j) {
        p.post[t * m + j] = 2 * Sigmoid(u[m + j] * p.scale[1] + p.base[m + j]);
      }
      Sinkhorn(p, u + 2 * m, p.base + 2 * m, p.comb + t * m * m);
    }
    const float* streams = p.streams + t * m * p.hidden_size;
    float* out = p.out + t * p.hidden_size;
    int64_t i = 0;
    for (; i + kLanes <= p.hidden_size; i += kLanes) {
      Vec sum = {};
      for (int32_t j = 0; j < m; ++j) {
        sum = Fma(Set(pre[j]), Load(streams + j * p.hidden_size + i), sum);
      }
      Store(sum, out + i);
    }
    for (; i < p.hidden_size; ++i) {
      float sum = 0;
      for (int32_t j = 0; j < m; ++j) {
        sum += pre[j] * streams[j * p.hidden_size + i];
      }
      out[i] = sum;
    }
  }
}

inline void HyperExpandTokens(const HyperExpandParams& p, int64_t begin,
                              int64_t end) {
  const int32_t m = p.m;
  const int64_t hidden = p.hidden_size;
  for (int64_t t = begin; t < end; ++t) {
    const float* y = p.y + t * hidden;
    const float* post = p.post + t * m;
    const float* comb = p.comb + t * m * m;
    float* streams = p.streams + t * m * hidden;
    int64_t i = 0;
    for (; i + kLanes <= hidden; i += kLanes) {
      Vec old[kMaxStreams];
      for (int32_t j = 0; j < m; ++j) old[j] = Load(streams + j * hidden + i);
      for (int32_t k = 0; k < m; ++k) {
        Vec sum = Set(post[k]) * Load(y + i);
        for (int32_t j = 0; j < m; ++j) {
          sum = Fma(Set(comb[j * m + k]), old[j], sum);
        }
        Store(sum, streams + k * hidden + i);
      }
    }
    for (; i < hidden; ++i) {
      float old[kMaxStreams];
      for (int32_t j = 0; j < m; ++j) old[j] = streams[j * hidden + i];
      for (int32_t k = 0; k < m; ++k) {
        float sum = post[k] * y[i];
        for (int32_t j = 0; j < m; ++j) sum += comb[j * m + k] * old[j];
        streams[k * hidden + i] = sum;
      }
    }
  }
}

}  // namespace shoal::SHOAL_ISA
