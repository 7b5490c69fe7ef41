// Decoded weights as the tensor cores take them are the values of Decode(),
// rounded once.
#include <cmath>

#include "gtest/gtest.h"
#include "kernels/cuda/linear_steps.cuh"

namespace shoal::cuda {
namespace {

template <DType kType>
void ExpectRoundedValues() {
  for (uint32_t scale = 0; scale < 0x10000; scale += 7) {
    if (!std::isfinite(WidenF16(static_cast<uint16_t>(scale)))) continue;
    for (uint32_t code = 0; code < 16; ++code) {
      WeightUnit<kType> unit = {};
      unit.scale = scale;
      // A code in all weights, with another fifth bit in each second one.
      unit.codes[0] = unit.codes[1] = code * 0x11111111u;
      unit.high[0] = 0xaaaaaaaau;
      for (const int64_t k : {0, 8, 16, 24}) {
        float w[kUnit];
        Decode(unit, k, w);
        const uint4 pairs = DecodeBF16(unit, k);
        const uint32_t words[] = {pairs.x, pairs.y, pairs.z, pairs.w};
        for (int i = 0; i < kUnit; ++i) {
          const auto bits =
              static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2)));
          // Equal as values: of a zero the sign may differ.
          ASSERT_EQ(WidenBF16(bits), WidenBF16(NarrowBF16(w[i])))
              << "scale " << scale << " code " << code << " weight " << i;
        }
      }
    }
  }
}

TEST(DecodeTest, CodesOfFourBits) { ExpectRoundedValues<DType::kQ4_0>(); }
TEST(DecodeTest, CodesOfFiveBits) { ExpectRoundedValues<DType::kQ5_0>(); }
TEST(DecodeTest, CodesWithAMinimum) { ExpectRoundedValues<DType::kQ5_1>(); }

TEST(DecodeTest, EveryValueOfE4M3) {
  for (uint32_t byte = 0; byte < 0x100; ++byte) {
    WeightUnit<DType::kF8E4M3> unit = {};
    unit.factor = 1;
    unit.codes[0] = byte * 0x01010101u;
    float w[kUnit];
    Decode(unit, 0, w);
    const uint32_t exponent = byte >> 3 & 15;
    const auto mantissa = static_cast<float>(byte & 7);
    const float magnitude =
        exponent == 0
            ? std::ldexp(mantissa, -9)
            : std::ldexp(8 + mantissa, static_cast<int>(exponent) - 10);
    for (int i = 0; i < 4; ++i) {
      if ((byte & 0x7f) == 0x7f) {
        EXPECT_TRUE(std::isnan(w[i])) << byte;
      } else {
        EXPECT_EQ(w[i], byte < 0x80 ? magnitude : -magnitude) << byte;
      }
    }
  }
}

}  // namespace
}  // namespace shoal::cuda
