// Rows of queries gathering values by online softmax over tiles of kKeys keys.
// Keys are taken in segments of kSegment; each has a softmax of its own, which
// is merged into the row's when it ends, in order. So segments may be computed
// apart (by several threads) without changing a bit, and a row's arithmetic
// depends on its keys only. Included by isa_<name>.cc only.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/tile_product.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

inline constexpr int kKeys = 64;
static_assert(kAttentionSegment % kKeys == 0);

// What `count` rows have gathered: values weighted by 2^(score - max), and the
// weights' sum as lanes.
struct RowStates {
  int64_t count = 0;
  int64_t v_width = 0;   // a multiple of kLanes
  float* acc = nullptr;  // [count, v_width]
  float* sum = nullptr;  // [count, kLanes]
  float* max = nullptr;  // [count], of scores in powers of two
};

inline int64_t RowStatesFloats(int64_t count, int64_t v_width) {
  return count * (v_width + kLanes + 1);
}

inline RowStates RowStatesAt(int64_t count, int64_t v_width, float* memory) {
  return {count, v_width, memory, memory + count * v_width,
          memory + count * (v_width + kLanes)};
}

inline void ResetRows(const RowStates& rows) {
  std::memset(rows.acc, 0,
              rows.count * (rows.v_width + kLanes) * sizeof(float));
  for (int64_t r = 0; r < rows.count; ++r) rows.max[r] = -INFINITY;
}

// 2^x for x <= about 0, at least 2^-126; NaN stays NaN. Within 1 ulp, or with
// kFew, for results that are then rounded to bf16, within 2^-18 of it. The
// polynomials are minimax fits with a constant term of 1.
template <bool kFew>
inline Vec Exp2(const Vec& x) {
  const Vec y = Max(Set(-126.0f), x);  // NaN is the second's
  // Adding 1.5 · 2^23 rounds; 127 more leave n's exponent in the low bits.
  const Vec magic = Set(12582912.0f + 127.0f);
  const Vec shifted = y + magic;
  const Vec r = y - (shifted - magic);  // [-0.5, 0.5]
  Vec p;
  if constexpr (kFew) {
    p = Set(0.00958285299f);
    p = Fma(p, r, Set(0.0559064247f));
    p = Fma(p, r, Set(0.240240986f));
    p = Fma(p, r, Set(0.693124193f));
  } else {
    p = Set(0.000153533619f);
    p = Fma(p, r, Set(0.00133988744f));
    p = Fma(p, r, Set(0.00961843736f));
    p = Fma(p, r, Set(0.0555033247f));
    p = Fma(p, r, Set(0.240226479f));
    p = Fma(p, r, Set(0.693147203f));
  }
  p = Fma(p, r, Set(1.0f));
  return p * BitCast<Vec>(BitCast<VecU>(shifted) << 23);
}

inline VecI LaneIndices() {
  VecI lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  return lanes;
}

template <int kShift, size_t... kLane>
inline Vec RotateLanes(const Vec& v, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(v, v, ((kLane + kShift) % kLanes)...);
}
template <int kShift>
inline float HighestLane(const Vec& v) {
  if constexpr (kShift == 0) {
    return v[0];
  } else {
    return HighestLane<kShift / 2>(
        Max(v, RotateLanes<kShift>(v, std::make_index_sequence<kLanes>())));
  }
}

// Scores of one row, scale (with log2 e) yet to be applied, become weights
// against the running maximum, as words of `a`; keys from `valid` on weigh
// nothing. What was gathered is rescaled when the maximum rose.
template <bool kPairs, bool kMasked>
inline void SoftmaxRow(const RowStates& rows, int64_t r, float scale,
                       int64_t valid, float* scores) {
  constexpr int kVectors = kKeys / kLanes;
  const VecI lanes = LaneIndices();
  const auto masked = [&](const Vec& v, int i, float mask) {
    const VecI limit = static_cast<int32_t>(valid) - i * kLanes - VecI{};
    return lanes < limit ? v : Set(mask);
  };
  Vec s[kVectors];
  Vec highest = Set(-INFINITY);
  for (int i = 0; i < kVectors; ++i) {
    s[i] = Load(scores + i * kLanes);
    if constexpr (kMasked) s[i] = masked(s[i], i, -INFINITY);
    highest = Max(s[i], highest);
  }
  const float tile_max = HighestLane<kLanes / 2>(highest) * scale;
  Vec sum = Load(rows.sum + r * kLanes);
  if (tile_max > rows.max[r]) {
    const Vec shrink = Exp2<false>(Set(rows.max[r] - tile_max));
    float* acc = rows.acc + r * rows.v_width;
    for (int64_t i = 0; i < rows.v_width; i += kLanes) {
      Store(Load(acc + i) * shrink, acc + i);
    }
    sum = sum * shrink;
    rows.max[r] = tile_max;
  }
  const Vec offset = Set(-rows.max[r]);
  for (int i = 0; i < kVectors; ++i) {
    s[i] = Exp2<kPairs>(Fma(s[i], Set(scale), offset));
    if constexpr (kMasked) s[i] = masked(s[i], i, 0.0f);
  }
  if constexpr (kPairs) {
    const Vec ones = BitCast<Vec>(0x3f803f80u - VecU{});
    for (int i = 0; i < kVectors; i += 2) {
      const Vec weights = RoundToPairs(s[i], s[i + 1]);
      Store(weights, scores + i / 2 * kLanes);
      sum = MulAdd<true>(weights, ones, sum);
    }
  } else {
    for (int i = 0; i < kVectors; ++i) {
      Store(s[i], scores + i * kLanes);
      sum = sum + s[i];
    }
  }
  Store(sum, rows.sum + r * kLanes);
}

// Query rows as words of `a`, `stride` apart.
struct QueryRows {
  const float* words = nullptr;
  int64_t stride = 0;
  int64_t depth = 0;  // words
  float scale = 0;    // of scores, with log2 e
};

// One tile of keys [depth, kKeys] and values [words of keys, v_width] against
// rows from `row` on; row r sees the first valid(r) > 0 of num_keys.
template <bool kPairs, typename Keys, typename Values, typename Valid>
inline void AttendTile(const QueryRows& query, const RowStates& rows,
                       int64_t row, const Keys& keys, const Values& values,
                       int64_t num_keys, const Valid& valid) {
  alignas(64) float scores[kRowBlock * kKeys];
  const int64_t width = RoundUp(num_keys, kLanes);
  while (row < rows.count) {
    const int64_t count =
        rows.count - row < kRowBlock ? rows.count - row : kRowBlock;
    TileProduct<kPairs>(count, query.words + row * query.stride, query.stride,
                        keys, query.depth, width, /*accumulate=*/false, scores,
                        kKeys);
    for (int64_t r = 0; r < count; ++r) {
      const int64_t seen = valid(row + r);
      if (seen >= kKeys) {
        SoftmaxRow<kPairs, false>(rows, row + r, query.scale, seen,
                                  scores + r * kKeys);
      } else {
        SoftmaxRow<kPairs, true>(rows, row + r, query.scale, seen,
                                 scores + r * kKeys);
      }
    }
    TileProduct<kPairs>(count, scores, kKeys, values, WordsOf<kPairs>(num_keys),
                        rows.v_width, /*accumulate=*/true,
                        rows.acc + row * rows.v_width, rows.v_width);
    row += count;
  }
}

// A later segment's row joins those before it.
inline void MergeRow(const RowStates& later, const RowStates& rows, int64_t r) {
  const float max = later.max[r] > rows.max[r] ? later.max[r] : rows.max[r];
  const Vec keep = Exp2<false>(Set(rows.max[r] - max));
  const Vec add = Exp2<false>(Set(later.max[r] - max));
  const auto merge = [&](const float* from, float* to) {
    Store(Fma(Load(from), add, Load(to) * keep), to);
  };
  merge(later.sum + r * kLanes, rows.sum + r * kLanes);
  for (int64_t i = 0; i < rows.v_width; i += kLanes) {
    merge(later.acc + r * rows.v_width + i, rows.acc + r * rows.v_width + i);
  }
  rows.max[r] = max;
}

// out = the row's mean, `width` values. `sink`: a score that has no value.
inline void FinishRow(const RowStates& rows, int64_t r, int64_t width,
                      float* out, const float* sink = nullptr) {
  float total = Sum(Load(rows.sum + r * kLanes));
  if (sink != nullptr) {
    total += std::exp2(*sink * 1.44269504f - rows.max[r]);
  }
  float* acc = rows.acc + r * rows.v_width;
  const Vec scale = Set(1.0f / total);
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes)
    Store(Load(acc + i) * scale, out + i);
  if (i < width) {
    float last[kLanes];
    Store(Load(acc + i) * scale, last);
    std::memcpy(out + i, last, (width - i) * sizeof(float));
  }
}

}  // namespace shoal::SHOAL_ISA
