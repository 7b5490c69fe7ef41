// What the integer kernels of all instruction sets share: how a group of a tile
// is laid out (see IntTiles) and how a group's dot becomes a value:
//   acc = fma(scale_w · scale_x, dot, acc);  acc = fma(min_w, sum_x, acc)
// in the order of the groups. Included by isa_<name>.cc only.
#pragma once

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/float_linear.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

template <IntKind kKind, int kRows>
struct IntGroup {
  static constexpr bool kFourBit =
      kKind == IntKind::kU4Min || kKind == IntKind::kS4 ||
      kKind == IntKind::kTable4 || kKind == IntKind::kU4Super;
  static constexpr bool kSuper = kKind == IntKind::kU4Super;
  static constexpr bool kHasMin = kKind == IntKind::kU4Min ||
                                  kKind == IntKind::kU8Min ||
                                  kKind == IntKind::kU4Super;
  static constexpr int kNumScales = kKind == IntKind::kS8Half ? 2 : 1;
  static constexpr int kChunks = kFourBit ? 4 : 8;  // of kRows · 4 bytes
  static constexpr int kScaleBytes = 2 * kRows;
  static constexpr int kHeadBytes =
      kSuper ? 2 * kRows : kScaleBytes * (kNumScales + (kHasMin ? 1 : 0));
  static constexpr int kSuperHeadBytes = kSuper ? 4 * kRows : 0;
  static constexpr int kBytes = kHeadBytes + kChunks * kRows * 4;
};

// Calls Tile<kTokens>::Run over all tokens for tiles [begin, end): four tokens
// at a time, then one by one. Tokens are taken in blocks whose rounded rows
// stay in the second-level cache while the tiles pass by.
template <IntKind kKind, int kRows, typename Kernel>
inline void ForTiles(const IntTiles& weight, const RoundedRows& in,
                     const LinearOut& out, int64_t begin, int64_t end,
                     const Kernel& kernel) {
  const int64_t block = 256;
  for (int64_t t0 = 0; t0 < in.num_tokens; t0 += block) {
    const int64_t t1 = t0 + block < in.num_tokens ? t0 + block : in.num_tokens;
    for (int64_t tile = begin; tile < end; ++tile) {
      const uint8_t* data = weight.data + tile * weight.tile_bytes;
      const int64_t row = tile * kRows;
      const int64_t left = weight.out_features - row;
      const int rows = left < kRows ? static_cast<int>(left) : kRows;
      int64_t t = t0;
      for (; t + 4 <= t1; t += 4) {
        kernel.template Run<kKind, 4>(data, in, t, row, rows, out);
      }
      for (; t < t1; ++t) {
        kernel.template Run<kKind, 1>(data, in, t, row, rows, out);
      }
    }
  }
}

template <int kRows, typename Kernel>
inline void IntLinearWith(IntKind kind, const IntTiles& weight,
                          const RoundedRows& in, const LinearOut& out,
                          int64_t begin, int64_t end) {
  const Kernel kernel;
  switch (kind) {
    case IntKind::kU4Min:
      return ForTiles<IntKind::kU4Min, kRows>(weight, in, out, begin, end,
                                              kernel);
    case IntKind::kS4:
      return ForTiles<IntKind::kS4, kRows>(weight, in, out, begin, end, kernel);
    case IntKind::kTable4:
      return ForTiles<IntKind::kTable4, kRows>(weight, in, out, begin, end,
                                               kernel);
    case IntKind::kS8:
      return ForTiles<IntKind::kS8, kRows>(weight, in, out, begin, end, kernel);
    case IntKind::kU8Min:
      return ForTiles<IntKind::kU8Min, kRows>(weight, in, out, begin, end,
                                              kernel);
    case IntKind::kS8Half:
      return ForTiles<IntKind::kS8Half, kRows>(weight, in, out, begin, end,
                                               kernel);
    case IntKind::kU4Super:
      return ForTiles<IntKind::kU4Super, kRows>(weight, in, out, begin, end,
                                                kernel);
  }
}

// Adds the tile's values of one token to their places.
template <int kRows>
inline void StoreTile(const float* values, int64_t token, int64_t row, int rows,
                      const LinearOut& out) {
  float* place = out.out + token * out.stride + row;
  if (rows == kRows) {
    for (int r = 0; r < kRows; r += kLanes) {
      Vec value = Load(values + r);
      if (out.bias != nullptr) value = value + Load(out.bias + row + r);
      if (out.accumulate) value = Load(place + r) + value;
      Store(value, place + r);
    }
    return;
  }
  for (int r = 0; r < rows; ++r) {
    float value = values[r];
    if (out.bias != nullptr) value += out.bias[row + r];
    place[r] = out.accumulate ? place[r] + value : value;
  }
}

}  // namespace shoal::SHOAL_ISA
