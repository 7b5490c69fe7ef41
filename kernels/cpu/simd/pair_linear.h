// Dense products in pairs of bf16 (see PairTiles): a step adds two products of
// each of 32 rows, which lie across the lanes of two vectors, to the sums of up
// to 12 tokens, whose pairs are broadcast; so nothing is summed across lanes,
// and a scale costs one operation for all steps it covers. Weights of 8 and 4
// bits become bf16, exactly, in registers, or once for many tokens in scratch.
// Included by isa_<name>.cc only.
//
// A value is one chain in the order of the columns, group after group, however
// many tokens pass together.
#pragma once

#include <cstring>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd/float_linear.h"
#include "kernels/cpu/simd/tile_product.h"
#include "kernels/cpu/simd/vec.h"

namespace shoal::SHOAL_ISA {

// Rows [begin, end) rounded to pairs, zeros behind them.
inline void RoundPairs(const float* in, int64_t in_features, int64_t begin,
                       int64_t end, float* words) {
  const int64_t stride = PairStride(in_features);
  for (int64_t t = begin; t < end; ++t) {
    PackQuery<true>(in + t * in_features, in_features, words + t * stride);
  }
}

#if defined(__AVX512BF16__)

static_assert(kPairTileRows == 2 * kLanes);
// Vectors across a tile's rows.
inline constexpr int kHalfTiles = 2;
inline constexpr int64_t kHalfBytes = 64;
inline constexpr int64_t kStepBytes = kHalfTiles * kHalfBytes;
// Tokens whose sums fill the registers: 24 of 32.
inline constexpr int kPairTokens = 12;

using CodeBytes = uint8_t __attribute__((vector_size(64)));

inline CodeBytes LoadCodes(const uint8_t* p) {
  CodeBytes codes;
  std::memcpy(&codes, p, sizeof(codes));
  return codes;
}
inline CodeBytes Table(uint8_t x0, uint8_t x1, uint8_t x2, uint8_t x3,
                       uint8_t x4, uint8_t x5, uint8_t x6, uint8_t x7,
                       uint8_t x8, uint8_t x9, uint8_t x10, uint8_t x11,
                       uint8_t x12, uint8_t x13, uint8_t x14, uint8_t x15) {
  using Entries = uint8_t __attribute__((vector_size(16)));
  const Entries entries = {x0, x1, x2,  x3,  x4,  x5,  x6,  x7,
                           x8, x9, x10, x11, x12, x13, x14, x15};
  return BitCast<CodeBytes>(_mm512_broadcast_i32x4(BitCast<__m128i>(entries)));
}
// REQUIRES: indices below 16.
inline CodeBytes LookUp(const CodeBytes& table, const CodeBytes& indices) {
  return BitCast<CodeBytes>(
      _mm512_shuffle_epi8(BitCast<__m512i>(table), BitCast<__m512i>(indices)));
}
// Of every 16 bytes the first eight and the last eight, low ones joined to
// high ones.
inline void JoinBytes(const CodeBytes& low, const CodeBytes& high, Vec* first,
                      Vec* second) {
  *first = BitCast<Vec>(
      _mm512_unpacklo_epi8(BitCast<__m512i>(low), BitCast<__m512i>(high)));
  *second = BitCast<Vec>(
      _mm512_unpackhi_epi8(BitCast<__m512i>(low), BitCast<__m512i>(high)));
}

// Each code: kSteps steps of kHalfBytes of a half tile.
struct Bf16Code {
  static constexpr int kSteps = 1;
  static void Unpack(const uint8_t* p, Vec* w) {
    std::memcpy(w, p, sizeof(Vec));
  }
};

// s eeee mmm of bias 7 without NaN: the exponent moves from bias 7 to 127, its
// last bit and the mantissa fill the lower byte. Subnormals are m · 2^-9.
struct E4M3Code {
  static constexpr int kSteps = 2;
  static void Unpack(const uint8_t* p, Vec* w) {
    const CodeBytes high =
        Table(60, 60, 61, 61, 62, 62, 63, 63, 64, 64, 65, 65, 66, 66, 67, 67);
    const CodeBytes subnormal_high =
        Table(0, 59, 59, 59, 60, 60, 60, 60, 0, 0, 0, 0, 0, 0, 0, 0);
    const CodeBytes subnormal_low =
        Table(0, 0, 0x80, 0xc0, 0, 0x20, 0x40, 0x60, 0, 0, 0, 0, 0, 0, 0, 0);
    const CodeBytes code = LoadCodes(p);
    const CodeBytes last = code & 15;
    const auto subnormal = (code & 0x78) == 0;
    const CodeBytes exponent = (code >> 3) & 15;
    const CodeBytes upper =
        subnormal ? LookUp(subnormal_high, last) : LookUp(high, exponent);
    // No bit leaves its byte: shifts of bytes would cost a mask.
    const auto shifted = BitCast<CodeBytes>(BitCast<VecU>(last) << 4);
    const CodeBytes lower = subnormal ? LookUp(subnormal_low, last) : shifted;
    JoinBytes(lower, upper | (code & 0x80), w, w + 1);
  }
};

// Two of s ee m of bias 1 a byte: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and negative ones.
struct E2M1Code {
  static constexpr int kSteps = 4;
  static void Unpack(const uint8_t* p, Vec* w) {
    const CodeBytes upper =
        Table(0, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40,  //
              0x80, 0xbf, 0xbf, 0xbf, 0xc0, 0xc0, 0xc0, 0xc0);
    const CodeBytes lower = Table(0, 0, 0x80, 0xc0, 0, 0x40, 0x80, 0xc0,  //
                                  0, 0, 0x80, 0xc0, 0, 0x40, 0x80, 0xc0);
    const CodeBytes code = LoadCodes(p);
    const CodeBytes first = code & 15;
    const CodeBytes second = (code >> 4) & 15;
    JoinBytes(LookUp(lower, first), LookUp(upper, first), w, w + 1);
    JoinBytes(LookUp(lower, second), LookUp(upper, second), w + 2, w + 3);
  }
};

// The scales of a group for half `h` of the tile whose scales these are.
template <PairKind kKind>
inline Vec GroupScale(const uint8_t* scales, int64_t group, int h) {
  if constexpr (kKind == PairKind::kE4M3) {
    float scale;
    std::memcpy(&scale, scales + 4 * group, sizeof(scale));
    return Set(scale);
  } else {
    return BitCast<Vec>(LoadU8(scales + kPairTileRows * group + h * kLanes)
                        << 23);
  }
}

// Adds steps [begin, end) to sums. `codes` begin at step `begin`.
template <typename Code, int kTokens>
inline void AddSteps(const uint8_t* codes, const float* x, int64_t stride,
                     int64_t begin, int64_t end,
                     Vec (&sum)[kTokens][kHalfTiles]) {
  for (int64_t step = begin; step < end; step += Code::kSteps) {
    Vec w[kHalfTiles][Code::kSteps];
#pragma GCC unroll 2
    for (int h = 0; h < kHalfTiles; ++h) {
      __builtin_prefetch(codes + h * kHalfBytes + kAhead, 0, 2);
      Code::Unpack(codes + h * kHalfBytes, w[h]);
#pragma GCC unroll 4
      for (int s = 0; s < Code::kSteps; ++s) KeepInRegister(w[h][s]);
    }
    codes += kStepBytes;
#pragma GCC unroll 4
    for (int s = 0; s < Code::kSteps; ++s) {
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t) {
        const Vec word = BroadcastWord(x + t * stride + step + s);
#pragma GCC unroll 2
        for (int h = 0; h < kHalfTiles; ++h) {
          sum[t][h] = DotPairs(word, w[h][s], sum[t][h]);
        }
      }
    }
  }
}

// What a tile is multiplied by and where the products go.
struct PairPanel {
  const float* x = nullptr;  // of the first token
  int64_t token = 0;
  int64_t count = 0;
  const LinearOut* out = nullptr;
};

// One tile against kTokens tokens. `codes` are the tile's, as Code has them.
template <PairKind kKind, typename Code, int kTokens>
inline void PairTile(const PairTiles& weight, int64_t tile,
                     const uint8_t* codes, const PairPanel& panel) {
  const int64_t stride = PairStride(weight.in_features);
  const int64_t steps = PairColumns(weight.in_features) / 2;
  Vec sums[kTokens][kHalfTiles] = {};
  if constexpr (kKind == PairKind::kBf16) {
    AddSteps<Code, kTokens>(codes, panel.x, stride, 0, steps, sums);
  } else {
    const uint8_t* scales = weight.data + tile * weight.tile_bytes;
    for (int64_t g = 0, step = 0; step < steps; ++g) {
      const int64_t next = step + weight.group / 2;
      const int64_t end = next < steps ? next : steps;
      Vec group[kTokens][kHalfTiles] = {};
      AddSteps<Code, kTokens>(codes + step / Code::kSteps * kStepBytes, panel.x,
                              stride, step, end, group);
#pragma GCC unroll 2
      for (int h = 0; h < kHalfTiles; ++h) {
        const Vec scale = GroupScale<kKind>(scales, g, h);
#pragma GCC unroll 12
        for (int t = 0; t < kTokens; ++t) {
          sums[t][h] = Fma(scale, group[t][h], sums[t][h]);
        }
      }
      step = end;
    }
  }
#pragma GCC unroll 12
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalfTiles; ++h) {
      const int64_t row = tile * kPairTileRows + h * kLanes;
      StoreRows(sums[t][h], panel.token + t, row, weight.out_features - row,
                *panel.out);
    }
  }
}

// PairTile of panel.count tokens, at most kTokens.
template <PairKind kKind, typename Code, int kTokens = kPairTokens>
inline void PairTileOf(const PairTiles& weight, int64_t tile,
                       const uint8_t* codes, const PairPanel& panel) {
  if constexpr (kTokens > 1) {
    if (panel.count < kTokens) {
      PairTileOf<kKind, Code, kTokens - 1>(weight, tile, codes, panel);
      return;
    }
  }
  PairTile<kKind, Code, kTokens>(weight, tile, codes, panel);
}

// A tile's codes as pairs.
template <typename Code>
inline void WidenTile(const uint8_t* codes, int64_t steps, float* out) {
  for (int64_t step = 0; step < steps; step += Code::kSteps) {
    for (int h = 0; h < kHalfTiles; ++h) {
      Vec w[Code::kSteps];
      Code::Unpack(codes + h * kHalfBytes, w);
      for (int s = 0; s < Code::kSteps; ++s) {
        Store(w[s], out + ((step + s) * kHalfTiles + h) * kLanes);
      }
    }
    codes += kStepBytes;
  }
}

// Tiles [begin, end), which lie in the cache, against all tokens: panels as
// even as can be, 13 are 7 and 6.
template <PairKind kKind, typename Code>
inline void PairBlock(const PairTiles& weight, const uint8_t* codes,
                      int64_t codes_stride, const float* words,
                      int64_t num_tokens, const LinearOut& out, int64_t begin,
                      int64_t end) {
  const int64_t panels = (num_tokens + kPairTokens - 1) / kPairTokens;
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t token = num_tokens * p / panels;
    const int64_t next = num_tokens * (p + 1) / panels;
    const PairPanel panel = {words + token * PairStride(weight.in_features),
                             token, next - token, &out};
    for (int64_t tile = begin; tile < end; ++tile) {
      PairTileOf<kKind, Code>(weight, tile,
                              codes + (tile - begin) * codes_stride, panel);
    }
  }
}

template <PairKind kKind, typename Code>
inline void PairLinearOf(const PairTiles& weight, const float* words,
                         int64_t num_tokens, const LinearOut& out,
                         int64_t begin, int64_t end, float* scratch) {
  const int64_t columns = PairColumns(weight.in_features);
  const int64_t tile_floats = columns / 2 * kPairTileRows;
  const int64_t fit = PairBlockTiles(weight.in_features);
  for (int64_t tile = begin; tile < end; tile += fit) {
    const int64_t last = tile + fit < end ? tile + fit : end;
    const uint8_t* codes =
        weight.data + tile * weight.tile_bytes + weight.scale_bytes;
    if (Code::kSteps == 1 || num_tokens <= kPairTokens) {
      PairBlock<kKind, Code>(weight, codes, weight.tile_bytes, words,
                             num_tokens, out, tile, last);
      continue;
    }
    for (int64_t i = tile; i < last; ++i) {
      WidenTile<Code>(codes + (i - tile) * weight.tile_bytes, columns / 2,
                      scratch + (i - tile) * tile_floats);
    }
    PairBlock<kKind, Bf16Code>(
        weight, reinterpret_cast<const uint8_t*>(scratch), 4 * tile_floats,
        words, num_tokens, out, tile, last);
  }
}

// Tiles [begin, end) against all tokens.
inline void PairLinear(const PairTiles& weight, const float* words,
                       int64_t num_tokens, const LinearOut& out, int64_t begin,
                       int64_t end, float* scratch) {
  switch (weight.kind) {
    case PairKind::kBf16:
      return PairLinearOf<PairKind::kBf16, Bf16Code>(weight, words, num_tokens,
                                                     out, begin, end, scratch);
    case PairKind::kE4M3:
      return PairLinearOf<PairKind::kE4M3, E4M3Code>(weight, words, num_tokens,
                                                     out, begin, end, scratch);
    case PairKind::kE2M1:
      return PairLinearOf<PairKind::kE2M1, E2M1Code>(weight, words, num_tokens,
                                                     out, begin, end, scratch);
  }
}

#else

inline void PairLinear(const PairTiles&, const float*, int64_t,
                       const LinearOut&, int64_t, int64_t, float*) {}

#endif

}  // namespace shoal::SHOAL_ISA
