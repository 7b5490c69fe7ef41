// Decoded weights as the tensor cores take them are the values of Decode(),
// rounded once; and activations become the nearest values of E4M3.
#include <cmath>

#include "gtest/gtest.h"
#include "kernels/cuda/linear_steps.cuh"
#include "kernels/quant/float_bits.h"

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

// The code of every value of E4M3, of the middles and of what lies beside them.
TEST(NarrowE4M3Test, RoundsToTheNearestEven) {
  for (int code = 0; code < 0x7f; ++code) {
    const float x = F8E4M3ToF32(static_cast<uint8_t>(code));
    const float next = code < 0x7e ? F8E4M3ToF32(static_cast<uint8_t>(code + 1))
                                   : x + 32;  // none: all beyond is the largest
    const float middle = (x + next) / 2;
    const uint32_t above = code < 0x7e ? code + 1 : code;
    const uint32_t even = code % 2 == 0 ? code : above;
    EXPECT_EQ(NarrowE4M3(x, -x), code | (code | 0x80) << 8);
    EXPECT_EQ(NarrowE4M3(middle, -middle), even | (even | 0x80) << 8) << code;
    EXPECT_EQ(NarrowE4M3(std::nextafter(middle, 0.0f), x), code | code << 8);
    EXPECT_EQ(NarrowE4M3(std::nextafter(middle, 1e9f), x), above | code << 8);
  }
  EXPECT_EQ(NarrowE4M3(INFINITY, -1e30f), 0xfe7eu);
  EXPECT_EQ(NarrowE4M3(NAN, 0) & 0x7f, 0x7fu);
}

}  // namespace
}  // namespace shoal::cuda
