// Compressed entries as running softmaxes; see kernels/compress.h. Channels are
// independent, tokens follow each other. Included by isa_<name>.cc only.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

// The softmax that a few channels have summed up so far.
struct RunningMean {
  Vec max, sum, acc;

  void Reset() {
    max = Set(-INFINITY);
    sum = acc = Vec{};
  }
  void Add(const Vec& value, const Vec& gate) {
    const Vec top = Max(gate, max);
    const Vec shrink = Exp(max - top);  // 0 at the first
    const Vec weight = Exp(gate - top);
    sum = Fma(sum, shrink, weight);
    acc = Fma(acc, shrink, weight * value);
    max = top;
  }
};

// Up to kLanes channels from `channel` on, `count` of them.
inline void CompressVector(const CompressParams& p, int64_t channel,
                           int64_t count) {
  const auto load = [count](const float* x) {
    if (count == kLanes) return Load(x);
    float padded[kLanes] = {};
    std::memcpy(padded, x, count * sizeof(float));
    return Load(padded);
  };
  const auto store = [count](const Vec& v, float* x) {
    float padded[kLanes];
    Store(v, padded);
    std::memcpy(x, padded, count * sizeof(float));
  };
  const int64_t width = p.width;
  const int64_t channels = p.overlap ? 2 * width : width;
  const int64_t state_width = CompressStateWidth(width, p.overlap);
  int64_t entry = 0;
  for (int32_t s = 0; s < p.num_seqs; ++s) {
    float* state = p.state + p.state_slots[s] * state_width + channel;
    RunningMean open, next;
    open = {load(state), load(state + width), load(state + 2 * width)};
    next.Reset();
    if (p.overlap) {
      next = {load(state + 3 * width), load(state + 4 * width),
              load(state + 5 * width)};
    }
    for (int32_t t = p.cu_seqlens_q[s]; t < p.cu_seqlens_q[s + 1]; ++t) {
      const int32_t position = p.positions[t];
      if (position == 0) {
        open.Reset();
        next.Reset();
      }
      const int32_t j = position % p.ratio;
      const float* value = p.values + t * channels + channel;
      const float* gate = p.gates + t * channels + channel;
      const float* ape = p.ape + j * channels + channel;
      if (p.overlap) {
        next.Add(load(value), load(gate) + load(ape));
        open.Add(load(value + width), load(gate + width) + load(ape + width));
      } else {
        open.Add(load(value), load(gate) + load(ape));
      }
      if (j + 1 < p.ratio) continue;
      store(open.acc / open.sum, p.out + entry * width + channel);
      ++entry;
      open = next;
      next.Reset();
    }
    store(open.max, state);
    store(open.sum, state + width);
    store(open.acc, state + 2 * width);
    if (p.overlap) {
      store(next.max, state + 3 * width);
      store(next.sum, state + 4 * width);
      store(next.acc, state + 5 * width);
    }
  }
}

inline void CompressChannels(const CompressParams& p, int64_t begin,
                             int64_t end) {
  for (int64_t c = begin; c < end; c += kLanes) {
    CompressVector(p, c, end - c < kLanes ? end - c : kLanes);
  }
}

}  // namespace shoal::SHOAL_ISA
