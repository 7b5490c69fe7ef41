// Integer products in plain C++: the reference of the tile format. Included by
// isa_scalar.cc only.
#pragma once

#include "kernels/cpu/simd/int_tile.h"

namespace shoal::SHOAL_ISA {

inline constexpr int8_t kLevels[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct PortableIntKernel {
  static constexpr int kTileRows = 8;
  static constexpr int kMaxPanel = 4;

  // One tile against one panel: rows [row, row + rows) of kTileRows are real.
  template <IntKind kKind, int kPanel>
  static void Run(const uint8_t* data, const RoundedGroup* x, int64_t groups,
                  int64_t row, int rows, const PanelOut& out) {
    using Group = IntGroup<kKind, kTileRows>;
    float acc[kPanel][kTileRows] = {};
    const uint8_t* super = data;
    const uint8_t* group = data - Group::kBytes;
    for (int64_t g = 0; g < groups; ++g, x += kPanel) {
      group += Group::kBytes;
      if (Group::kSuper && g % kSuperGroups == 0) {
        super = group;
        group += Group::kSuperHeadBytes;
      }
      // 16 bits, because compilers know a dot of those.
      int16_t weights[kTileRows][kGroup];
      for (int r = 0; r < kTileRows; ++r) {
        for (int k = 0; k < kGroup; ++k) {
          weights[r][k] = static_cast<int16_t>(
              Weight<kKind>(group + Group::kHeadBytes, r, k));
        }
      }
      for (int t = 0; t < kPanel; ++t) {
        const RoundedGroup& rounded = x[t];
        int16_t values[kGroup];
        for (int k = 0; k < kGroup; ++k) values[k] = rounded.values[k];
        for (int r = 0; r < kTileRows; ++r) {
          constexpr int kPart = kGroup / Group::kNumScales;
          for (int s = 0; s < Group::kNumScales; ++s) {
            int32_t dot = 0;
            for (int k = s * kPart; k < (s + 1) * kPart; ++k) {
              dot += int32_t{weights[r][k]} * values[k];
            }
            const float scale = Group::kSuper ? Half(super, r) * group[r]
                                              : Half(group, s * kTileRows + r);
            acc[t][r] += scale * rounded.scale * static_cast<float>(dot);
          }
          if constexpr (Group::kHasMin) {
            const float min =
                Group::kSuper
                    ? -(Half(super, kTileRows + r) * group[kTileRows + r])
                    : Half(group, kTileRows + r);
            acc[t][r] += min * rounded.sum;
          }
        }
      }
    }
    for (int t = 0; t < kPanel; ++t) {
      for (int r = 0; r < rows; r += kLanes) {
        StoreRows(Load(acc[t] + r), out.token + t, row + r, rows - r, *out.out);
      }
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
