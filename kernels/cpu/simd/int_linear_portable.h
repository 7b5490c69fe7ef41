// Integer products in plain C++: the reference of the tile format. Included by
// isa_scalar.cc only.
#pragma once

#include "kernels/cpu/simd/int_tile.h"

namespace shoal::SHOAL_ISA {

inline constexpr int kTileRows = 8;
inline constexpr int8_t kLevels[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct PortableIntKernel {
  template <IntKind kKind, int kTokens>
  void Run(const uint8_t* data, const RoundedRows& in, int64_t token,
           int64_t row, int rows, const LinearOut& out) const {
    using Group = IntGroup<kKind, kTileRows>;
    const int64_t groups = in.in_features / kGroup;
    for (int t = 0; t < kTokens; ++t) {
      float acc[kTileRows] = {};
      for (int64_t g = 0; g < groups; ++g) {
        const uint8_t* group = data + g * Group::kBytes;
        const int64_t place = (token + t) * groups + g;
        const int8_t* x = in.values + place * kGroup;
        for (int r = 0; r < kTileRows; ++r) {
          int32_t dot[2] = {0, 0};
          for (int k = 0; k < kGroup; ++k) {
            dot[Group::kNumScales == 2 ? k / 16 : 0] +=
                Weight<kKind>(group + Group::kHeadBytes, r, k) * x[k];
          }
          for (int s = 0; s < Group::kNumScales; ++s) {
            const float scale = Half(group, s * kTileRows + r);
            acc[r] += scale * in.scales[place] * static_cast<float>(dot[s]);
          }
          if constexpr (Group::kHasMin) {
            acc[r] += Half(group, kTileRows + r) * in.sums[place];
          }
        }
      }
      StoreTile<kTileRows>(acc, token + t, row, rows, out);
    }
  }

 private:
  static float Half(const uint8_t* group, int i) {
    uint16_t bits;
    std::memcpy(&bits, group + 2 * i, sizeof(bits));
    return F16ToFloat(bits);
  }

  // Weight k of row r in a group's quants.
  template <IntKind kKind>
  static int32_t Weight(const uint8_t* quants, int r, int k) {
    if constexpr (IntGroup<kKind, kTileRows>::kFourBit) {
      const uint8_t byte = quants[(k / 8 * kTileRows + r) * 4 + k % 4];
      const int nibble = k % 8 < 4 ? byte & 15 : byte >> 4;
      if constexpr (kKind == IntKind::kTable4) return kLevels[nibble];
      if constexpr (kKind == IntKind::kS4) return nibble - 8;
      return nibble;
    } else {
      const uint8_t byte = quants[(k / 4 * kTileRows + r) * 4 + k % 4];
      if constexpr (kKind == IntKind::kU8Min) return byte;
      return static_cast<int8_t>(byte);
    }
  }
};

}  // namespace shoal::SHOAL_ISA
