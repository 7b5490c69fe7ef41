#include "kernels/quant/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/check.h"
#include "kernels/quant/dequantize.h"
#include "kernels/quant/float_bits.h"

namespace shoal {
namespace {

void StoreHalf(float value, uint8_t* dst) {
  const uint16_t half = F32ToF16(value);
  std::memcpy(dst, &half, 2);
}

// The f16 nearest to `value`, so that codes are chosen for the scale that the
// decoder will see.
float RoundToHalf(float value) { return F16ToF32(F32ToF16(value)); }

int Code(float value, float scale, int low, int high) {
  if (scale == 0) return std::clamp(0, low, high);
  const float q = std::nearbyintf(value / scale);
  return static_cast<int>(
      std::clamp(q, static_cast<float>(low), static_cast<float>(high)));
}

void Q4_0(const float* x, uint8_t* b) {
  float extreme = 0;  // the value of largest magnitude maps to code 0 (-8)
  for (int j = 0; j < 32; ++j) {
    if (std::fabs(x[j]) > std::fabs(extreme)) extreme = x[j];
  }
  const float d = RoundToHalf(extreme / -8);
  StoreHalf(d, b);
  for (int j = 0; j < 16; ++j) {
    const int low = Code(x[j], d, -8, 7) + 8;
    const int high = Code(x[j + 16], d, -8, 7) + 8;
    b[2 + j] = static_cast<uint8_t>(low | high << 4);
  }
}

void Q4_1(const float* x, uint8_t* b) {
  const auto [low_it, high_it] = std::minmax_element(x, x + 32);
  const float m = RoundToHalf(*low_it);
  const float d = RoundToHalf((*high_it - *low_it) / 15);
  StoreHalf(d, b);
  StoreHalf(m, b + 2);
  for (int j = 0; j < 16; ++j) {
    const int low = Code(x[j] - m, d, 0, 15);
    const int high = Code(x[j + 16] - m, d, 0, 15);
    b[4 + j] = static_cast<uint8_t>(low | high << 4);
  }
}

void Q8_0(const float* x, uint8_t* b) {
  float max = 0;
  for (int j = 0; j < 32; ++j) max = std::max(max, std::fabs(x[j]));
  const float d = RoundToHalf(max / 127);
  StoreHalf(d, b);
  for (int j = 0; j < 32; ++j) {
    b[2 + j] = static_cast<uint8_t>(Code(x[j], d, -127, 127));
  }
}

// Inverse of UnpackK4Scale(). REQUIRES: packed[12] starts zeroed, i ascends.
void PackK4Scale(int i, int scale, int min, uint8_t* packed) {
  if (i < 4) {
    packed[i] = static_cast<uint8_t>(scale);
    packed[i + 4] = static_cast<uint8_t>(min);
  } else {
    packed[i + 4] = static_cast<uint8_t>((scale & 15) | (min & 15) << 4);
    packed[i - 4] |= static_cast<uint8_t>((scale >> 4) << 6);
    packed[i] |= static_cast<uint8_t>((min >> 4) << 6);
  }
}

void Q4K(const float* x, uint8_t* b) {
  float scales[8], mins[8];  // value = scale * q - min, min >= 0
  float max_scale = 0, max_min = 0;
  for (int i = 0; i < 8; ++i) {
    const auto [low, high] = std::minmax_element(x + 32 * i, x + 32 * i + 32);
    mins[i] = std::max(0.0f, -*low);
    scales[i] = std::max(0.0f, *high + mins[i]) / 15;
    max_scale = std::max(max_scale, scales[i]);
    max_min = std::max(max_min, mins[i]);
  }
  const float d = RoundToHalf(max_scale / 63);
  const float dmin = RoundToHalf(max_min / 63);
  StoreHalf(d, b);
  StoreHalf(dmin, b + 2);
  std::memset(b + 4, 0, 12);
  uint8_t codes[256];
  for (int i = 0; i < 8; ++i) {
    const int s = Code(scales[i], d, 0, 63);
    const int m = Code(mins[i], dmin, 0, 63);
    PackK4Scale(i, s, m, b + 4);
    for (int k = 32 * i; k < 32 * i + 32; ++k) {
      codes[k] = static_cast<uint8_t>(Code(x[k] + dmin * m, d * s, 0, 15));
    }
  }
  for (int k = 0; k < 128; ++k) {  // byte k pairs sub-blocks 2i and 2i + 1
    const uint8_t* pair = codes + 64 * (k / 32) + k % 32;
    b[16 + k] = static_cast<uint8_t>(pair[0] | pair[32] << 4);
  }
}

using BlockEncoder = void (*)(const float*, uint8_t*);

BlockEncoder EncoderOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return [](const float* x, uint8_t* b) { std::memcpy(b, x, 4); };
    case DType::kF16:
      return [](const float* x, uint8_t* b) { StoreHalf(*x, b); };
    case DType::kBF16:
      return [](const float* x, uint8_t* b) {
        const uint16_t bits = F32ToBF16(*x);
        std::memcpy(b, &bits, 2);
      };
    case DType::kQ4_0:
      return Q4_0;
    case DType::kQ4_1:
      return Q4_1;
    case DType::kQ8_0:
      return Q8_0;
    case DType::kQ4_K:
      return Q4K;
    default:
      return nullptr;
  }
}

}  // namespace

bool CanQuantize(DType dtype) { return EncoderOf(dtype) != nullptr; }

void QuantizeRow(DType dtype, const float* src, int64_t n, void* dst) {
  const BlockEncoder encode = EncoderOf(dtype);
  const DTypeInfo& info = GetDTypeInfo(dtype);
  SHOAL_CHECK(encode != nullptr && n >= 0 && n % info.block_elements == 0);
  auto* bytes = static_cast<uint8_t*>(dst);
  for (int64_t i = 0; i < n; i += info.block_elements) {
    encode(src + i, bytes);
    bytes += info.block_bytes;
  }
}

}  // namespace shoal
