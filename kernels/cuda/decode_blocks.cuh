// Whole blocks of 32 weights: what a lane reads where it has four steps of a
// product ahead. Their weights are those of decode_weights.cuh.
#pragma once

#include "kernels/cuda/decode_weights.cuh"

namespace shoal::cuda {

// A whole block of 32 weights as it was loaded, by words.
template <DType kType>
struct WeightBlock {
  static constexpr bool kFive = kType == DType::kQ5_0 || kType == DType::kQ5_1;
  static constexpr bool kMin = kType == DType::kQ4_1 || kType == DType::kQ5_1;
  static constexpr int kCodes = kType == DType::kQ8_0 ? 8 : 4;
  static constexpr int kBody = kCodes + (kFive ? 1 : 0);
  static constexpr int kBytes = (kMin ? 4 : 2) + 4 * kBody;

  uint32_t scales;       // the scale, and the minimum in the upper half
  uint32_t body[kBody];  // what follows: fifth bits, codes

  // Block number `index` of the row that begins at `row`, an even address; of
  // types with a minimum a multiple of four.
  __device__ __forceinline__ void Fetch(const uint8_t* row, uint32_t index) {
    const uint8_t* at = row + index * kBytes;
    if constexpr (kMin) {
      scales = decode::LoadAs<uint32_t>(at);
#pragma unroll
      for (int i = 0; i < kBody; ++i) {
        body[i] = decode::LoadAs<uint32_t>(at + 4 * (i + 1));
      }
    } else {
      // Two bytes of a scale bring the rest across the edges of words.
      const bool odd = (reinterpret_cast<uintptr_t>(at) & 2) != 0;
      const uint8_t* words = at - (odd ? 2 : 0);
      uint32_t w[kBody + 1];
#pragma unroll
      for (int i = 0; i < kBody; ++i) {
        w[i] = decode::LoadAs<uint32_t>(words + 4 * i);
      }
      // Nothing is read past the block.
      w[kBody] = odd ? decode::LoadAs<uint32_t>(words + 4 * kBody)
                     : decode::Load16(at + 4 * kBody);
      scales = odd ? w[0] >> 16 : w[0] & 0xffff;
#pragma unroll
      for (int i = 0; i < kBody; ++i) {
        body[i] = odd ? w[i + 1] : w[i] >> 16 | w[i + 1] << 16;
      }
    }
  }

  // The weights from 8 · j on, which Decode() is told lie Offset(j) behind the
  // block's first.
  __device__ __forceinline__ static int Offset(int j) { return kUnit * j; }
  __device__ __forceinline__ WeightUnit<kType> Unit(int j) const {
    WeightUnit<kType> unit;
    unit.scale = scales & 0xffff;
    if (kMin) unit.min = scales >> 16;
    if (kFive) unit.high[0] = body[0];
    const int first = kCodes == 8 ? 2 * j : 2 * (j % 2);
    unit.codes[0] = body[kBody - kCodes + first];
    unit.codes[1] = body[kBody - kCodes + first + 1];
    return unit;
  }
};

// The same of a sub-block of Q4_K or Q5_K, which shares its bytes with another.
template <DType kType>
struct WeightSubBlock {
  static constexpr bool kFive = kType == DType::kQ5_K;
  static constexpr int kBytes = kFive ? 176 : 144;  // of eight of them

  uint32_t scales, sub_scale;
  uint32_t codes[8];
  uint32_t high[kFive ? 8 : 1];

  __device__ __forceinline__ void Fetch(const uint8_t* row, uint32_t index) {
    const uint8_t* at = row + index / 8 * kBytes;
    const uint32_t sub = index % 8;
    const auto head = decode::LoadAs<uint4>(at);
    scales = head.x;
    sub_scale = decode::SubScale(head, sub);
    if (kFive) Load32Bytes(at + 16, high);
    Load32Bytes(at + (kFive ? 48 : 16) + 32 * (sub / 2), codes);
  }

  // All that matters is which sub-block it is.
  __device__ __forceinline__ static int Offset(int /*j*/) { return 0; }
  __device__ __forceinline__ WeightUnit<kType> Unit(int j) const {
    WeightUnit<kType> unit;
    unit.scale = scales & 0xffff;
    unit.min = scales >> 16;
    unit.sub_scale = sub_scale;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      unit.codes[i] = codes[2 * j + i];
      if (kFive) unit.high[i] = high[2 * j + i];
    }
    return unit;
  }

 private:
  __device__ __forceinline__ static void Load32Bytes(const uint8_t* at,
                                                     uint32_t* words) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto four = decode::LoadAs<uint4>(at + 16 * i);
      words[4 * i] = four.x, words[4 * i + 1] = four.y;
      words[4 * i + 2] = four.z, words[4 * i + 3] = four.w;
    }
  }
};
// The same of Q6_K, whose blocks begin at even addresses. The halves of a
// sub-block have scales of their own.
struct WeightSubBlockQ6K {
  static constexpr int kBytes = 210;  // of eight of them

  uint32_t scale, sub_scales;
  uint32_t codes[8];
  uint32_t high[8];

  __device__ __forceinline__ void Fetch(const uint8_t* row, uint32_t index) {
    const uint8_t* at = row + index / 8 * kBytes;
    const uint32_t sub = index % 8;
    scale = decode::Load16(at + 208);
    sub_scales = decode::Load16(at + 192 + 2 * sub);
    Load32Bytes(at + 64 * (sub / 4) + 32 * (sub % 2), codes);
    Load32Bytes(at + 128 + 32 * (sub / 4), high);
  }

  __device__ __forceinline__ static int Offset(int /*j*/) { return 0; }
  __device__ __forceinline__ WeightUnit<DType::kQ6_K> Unit(int j) const {
    WeightUnit<DType::kQ6_K> unit;
    unit.scale = scale;
    unit.sub_scale = j < 2 ? sub_scales & 0xff : sub_scales >> 8;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      unit.codes[i] = codes[2 * j + i];
      unit.high[i] = high[2 * j + i];
    }
    return unit;
  }

 private:
  // By words, which are another two bytes off in every second block.
  __device__ __forceinline__ static void Load32Bytes(const uint8_t* at,
                                                     uint32_t* words) {
    const auto odd = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(at) & 2);
    at -= odd;
    uint32_t next = decode::LoadAs<uint32_t>(at);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t word = next;
      next = i < 7 || odd != 0 ? decode::LoadAs<uint32_t>(at + 4 * (i + 1)) : 0;
      words[i] = __funnelshift_r(word, next, 8 * odd);
    }
  }
};
template <>
struct WeightBlock<DType::kQ4_K> : WeightSubBlock<DType::kQ4_K> {};
template <>
struct WeightBlock<DType::kQ5_K> : WeightSubBlock<DType::kQ5_K> {};
template <>
struct WeightBlock<DType::kQ6_K> : WeightSubBlockQ6K {};

}  // namespace shoal::cuda
