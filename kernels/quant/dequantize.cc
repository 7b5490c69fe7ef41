#include "kernels/quant/dequantize.h"

#include "kernels/check.h"
#include "kernels/quant/float_bits.h"

namespace shoal {

const int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                               1,    13,   25,  38,  53,  69,  89,  113};
const int8_t kMxfp4Levels[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                 0, -1, -2, -3, -4, -6, -8, -12};

namespace {

float Half(const uint8_t* bytes) {
  return F16ToF32(LoadUnaligned<uint16_t>(bytes));
}

// Value j of 32 nibbles in 16 bytes: low halves first.
int Nibble32(const uint8_t* qs, int j) {
  return j < 16 ? qs[j] & 15 : qs[j - 16] >> 4;
}

void Q4_0(const uint8_t* b, float* out) {
  const float d = Half(b);
  for (int j = 0; j < 32; ++j) out[j] = d * (Nibble32(b + 2, j) - 8);
}

void Q4_1(const uint8_t* b, float* out) {
  const float d = Half(b);
  const float m = Half(b + 2);
  for (int j = 0; j < 32; ++j) out[j] = d * Nibble32(b + 4, j) + m;
}

void Q5_0(const uint8_t* b, float* out) {
  const float d = Half(b);
  const uint32_t qh = LoadUnaligned<uint32_t>(b + 2);
  for (int j = 0; j < 32; ++j) {
    const int q = Nibble32(b + 6, j) | static_cast<int>((qh >> j) & 1) << 4;
    out[j] = d * (q - 16);
  }
}

void Q5_1(const uint8_t* b, float* out) {
  const float d = Half(b);
  const float m = Half(b + 2);
  const uint32_t qh = LoadUnaligned<uint32_t>(b + 4);
  for (int j = 0; j < 32; ++j) {
    const int q = Nibble32(b + 8, j) | static_cast<int>((qh >> j) & 1) << 4;
    out[j] = d * q + m;
  }
}

void Q8_0(const uint8_t* b, float* out) {
  const float d = Half(b);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<int8_t>(b[2 + j]);
}

void Iq4Nl(const uint8_t* b, float* out) {
  const float d = Half(b);
  for (int j = 0; j < 32; ++j) out[j] = d * kIq4Levels[Nibble32(b + 2, j)];
}

void Mxfp4(const uint8_t* b, float* out) {
  // 2^(e - 128): one below E8M0's value because the levels are doubled.
  const float d = std::bit_cast<float>(
      b[0] < 2 ? 0x00200000u << b[0] : static_cast<uint32_t>(b[0] - 1) << 23);
  for (int j = 0; j < 32; ++j) out[j] = d * kMxfp4Levels[Nibble32(b + 1, j)];
}

// Two bits of value k (0..255) of Q2_K's and Q3_K's qs[64].
int TwoBits(const uint8_t* qs, int k) {
  return (qs[32 * (k / 128) + k % 32] >> (2 * (k % 128 / 32))) & 3;
}

void Q2K(const uint8_t* b, float* out) {
  const uint8_t* sc = b;
  const uint8_t* qs = b + 16;
  const float d = Half(b + 80);
  const float dmin = Half(b + 82);
  for (int k = 0; k < 256; ++k) {
    const float scale = d * (sc[k / 16] & 15);
    const float min = dmin * (sc[k / 16] >> 4);
    out[k] = scale * TwoBits(qs, k) - min;
  }
}

void Q3K(const uint8_t* b, float* out) {
  const uint8_t* hmask = b;
  const uint8_t* qs = b + 32;
  const uint8_t* sc = b + 96;
  const float d = Half(b + 108);
  for (int k = 0; k < 256; ++k) {
    const int i = k / 16;
    const int low = i < 8 ? sc[i] & 15 : sc[i - 8] >> 4;
    const int high = (sc[8 + i % 4] >> (2 * (i / 4))) & 3;
    const float scale = d * ((low | high << 4) - 32);
    const int hbit = (hmask[k % 32] >> (k / 32)) & 1;
    out[k] = scale * (TwoBits(qs, k) - (hbit != 0 ? 0 : 4));
  }
}

// Value k of Q4_K's and Q5_K's qs[128]: 64 values share 32 bytes.
int NibbleK(const uint8_t* qs, int k) {
  const uint8_t byte = qs[32 * (k / 64) + k % 32];
  return k / 32 % 2 == 0 ? byte & 15 : byte >> 4;
}

void Q4K(const uint8_t* b, float* out) {
  const float d = Half(b);
  const float dmin = Half(b + 2);
  for (int i = 0; i < 8; ++i) {
    uint8_t s, m;
    UnpackK4Scale(b + 4, i, &s, &m);
    const float scale = d * s;
    const float min = dmin * m;
    for (int k = 32 * i; k < 32 * i + 32; ++k) {
      out[k] = scale * NibbleK(b + 16, k) - min;
    }
  }
}

void Q5K(const uint8_t* b, float* out) {
  const float d = Half(b);
  const float dmin = Half(b + 2);
  const uint8_t* qh = b + 16;
  for (int i = 0; i < 8; ++i) {
    uint8_t s, m;
    UnpackK4Scale(b + 4, i, &s, &m);
    const float scale = d * s;
    const float min = dmin * m;
    for (int k = 32 * i; k < 32 * i + 32; ++k) {
      const int h = (qh[k % 32] >> i) & 1;
      out[k] = scale * (NibbleK(b + 48, k) | h << 4) - min;
    }
  }
}

void Q6K(const uint8_t* b, float* out) {
  const uint8_t* ql = b;
  const uint8_t* qh = b + 128;
  const uint8_t* sc = b + 192;
  const float d = Half(b + 208);
  for (int k = 0; k < 256; ++k) {
    const int h = k / 128;
    const int j = k % 128 / 32;
    const int l = k % 32;
    const uint8_t byte = ql[64 * h + 32 * (j & 1) + l];
    const int low = j < 2 ? byte & 15 : byte >> 4;
    const int high = (qh[32 * h + l] >> (2 * j)) & 3;
    const float scale = d * static_cast<int8_t>(sc[k / 16]);
    out[k] = scale * ((low | high << 4) - 32);
  }
}

void Iq4Xs(const uint8_t* b, float* out) {
  const float d = Half(b);
  const uint16_t sh = LoadUnaligned<uint16_t>(b + 2);
  const uint8_t* sl = b + 4;
  for (int i = 0; i < 8; ++i) {
    const int low = (sl[i / 2] >> (4 * (i & 1))) & 15;
    const int high = (sh >> (2 * i)) & 3;
    const float scale = d * ((low | high << 4) - 32);
    for (int l = 0; l < 32; ++l) {
      out[32 * i + l] = scale * kIq4Levels[Nibble32(b + 8 + 16 * i, l)];
    }
  }
}

void F4(const uint8_t* b, float* out) {
  out[0] = kF4E2M1Values[b[0] & 15];
  out[1] = kF4E2M1Values[b[0] >> 4];
}

template <typename T>
void Convert(const uint8_t* src, int64_t n, float* dst) {
  for (int64_t i = 0; i < n; ++i) {
    dst[i] = static_cast<float>(LoadUnaligned<T>(src + i * sizeof(T)));
  }
}

template <float (*kConvert)(uint16_t)>
void Convert16(const uint8_t* src, int64_t n, float* dst) {
  for (int64_t i = 0; i < n; ++i) {
    dst[i] = kConvert(LoadUnaligned<uint16_t>(src + 2 * i));
  }
}

template <float (*kConvert)(uint8_t)>
void Convert8(const uint8_t* src, int64_t n, float* dst) {
  for (int64_t i = 0; i < n; ++i) dst[i] = kConvert(src[i]);
}

float BoolToF32(uint8_t byte) { return byte != 0 ? 1.0f : 0.0f; }

using BlockDecoder = void (*)(const uint8_t*, float*);

// The decoder of one block, or nullptr for plain types.
BlockDecoder DecoderOf(DType dtype) {
  switch (dtype) {
    case DType::kF4E2M1:
      return F4;
    case DType::kQ4_0:
      return Q4_0;
    case DType::kQ4_1:
      return Q4_1;
    case DType::kQ5_0:
      return Q5_0;
    case DType::kQ5_1:
      return Q5_1;
    case DType::kQ8_0:
      return Q8_0;
    case DType::kQ2_K:
      return Q2K;
    case DType::kQ3_K:
      return Q3K;
    case DType::kQ4_K:
      return Q4K;
    case DType::kQ5_K:
      return Q5K;
    case DType::kQ6_K:
      return Q6K;
    case DType::kIQ4_NL:
      return Iq4Nl;
    case DType::kIQ4_XS:
      return Iq4Xs;
    case DType::kMXFP4:
      return Mxfp4;
    default:
      return nullptr;
  }
}

void DequantizePlain(DType dtype, const uint8_t* src, int64_t n, float* dst) {
  switch (dtype) {
    case DType::kF32:
      return Convert<float>(src, n, dst);
    case DType::kF16:
      return Convert16<F16ToF32>(src, n, dst);
    case DType::kBF16:
      return Convert16<BF16ToF32>(src, n, dst);
    case DType::kF64:
      return Convert<double>(src, n, dst);
    case DType::kI8:
      return Convert<int8_t>(src, n, dst);
    case DType::kU8:
      return Convert<uint8_t>(src, n, dst);
    case DType::kI16:
      return Convert<int16_t>(src, n, dst);
    case DType::kI32:
      return Convert<int32_t>(src, n, dst);
    case DType::kI64:
      return Convert<int64_t>(src, n, dst);
    case DType::kBool:
      return Convert8<BoolToF32>(src, n, dst);
    case DType::kF8E4M3:
      return Convert8<F8E4M3ToF32>(src, n, dst);
    case DType::kF8E5M2:
      return Convert8<F8E5M2ToF32>(src, n, dst);
    case DType::kF8E8M0:
      return Convert8<F8E8M0ToF32>(src, n, dst);
    default:
      SHOAL_CHECK(false);
  }
}

}  // namespace

void DequantizeRow(DType dtype, const void* src, int64_t n, float* dst) {
  const DTypeInfo& info = GetDTypeInfo(dtype);
  SHOAL_CHECK(n >= 0 && n % info.block_elements == 0);
  const auto* bytes = static_cast<const uint8_t*>(src);
  const BlockDecoder decode = DecoderOf(dtype);
  if (decode == nullptr) {
    DequantizePlain(dtype, bytes, n, dst);
    return;
  }
  for (int64_t i = 0; i < n; i += info.block_elements) {
    decode(bytes, dst + i);
    bytes += info.block_bytes;
  }
}

void DequantizeWeightRow(const WeightView& weight, int64_t row, float* dst) {
  SHOAL_CHECK(weight.data.rank == 2 && row >= 0 && row < weight.data.dim(0));
  const int64_t columns = weight.data.dim(1);
  const auto* data = static_cast<const uint8_t*>(weight.data.data);
  DequantizeRow(weight.data.dtype,
                data + row * DTypeBytes(weight.data.dtype, columns), columns,
                dst);
  if (weight.scales.empty()) return;
  const ConstTensorView& scales = weight.scales;
  const int64_t scale_columns = scales.dim(1);
  const auto* scale_row =
      static_cast<const uint8_t*>(scales.data) +
      DTypeBytes(scales.dtype, row / weight.scale_rows * scale_columns);
  for (int64_t c = 0; c < scale_columns; ++c) {
    float scale;
    DequantizeRow(scales.dtype, scale_row + DTypeBytes(scales.dtype, c), 1,
                  &scale);
    const int64_t end =
        c + 1 < scale_columns ? (c + 1) * weight.scale_cols : columns;
    for (int64_t i = c * weight.scale_cols; i < end; ++i) dst[i] *= scale;
  }
}

}  // namespace shoal
