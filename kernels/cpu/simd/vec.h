// Vec is the widest vector of 32-bit lanes of the instruction set that the
// including file is compiled for, on the compiler's own vector types: + - * and
// comparisons are operators. Included by isa_<name>.cc only, after SHOAL_ISA
// has been defined to the set's name, which is also the namespace: each set has
// its own functions, so none is shared across compiler flags.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef SHOAL_ISA
#error "SHOAL_ISA names the instruction set of the including file"
#endif

namespace shoal::SHOAL_ISA {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

using Vec = float __attribute__((vector_size(kLanes * 4)));
using VecI = int32_t __attribute__((vector_size(kLanes * 4)));
using VecU = uint32_t __attribute__((vector_size(kLanes * 4)));
using VecU16 = uint16_t __attribute__((vector_size(kLanes * 2)));
using VecU8 = uint8_t __attribute__((vector_size(kLanes)));

template <typename To, typename From>
inline To BitCast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline Vec Load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline void Store(const Vec& v, float* p) { std::memcpy(p, &v, sizeof(v)); }
inline Vec Set(float x) { return x - Vec{}; }

// Has the compiler load v once, into a register.
inline void KeepInRegister([[maybe_unused]] Vec& v) {
  // Where AVX-512 is emulated there is no register of v's size.
#if defined(__AVX512BW__) || (defined(__AVX2__) && !defined(__AVX512F__))
  asm("" : "+v"(v));
#endif
}

// How far ahead weights are asked for: what the processor foresees of them by
// itself does not keep memory busy. A page of 4 KiB ends its foresight.
inline constexpr int64_t kAhead = 8192;

template <int kBytes>
inline void PrefetchBytes(const uint8_t* data) {
#pragma GCC unroll 10
  for (int i = 0; i < kBytes; i += 64) __builtin_prefetch(data + i, 0, 2);
}

// a · b + c, fused where the instruction set has it.
inline Vec Fma(const Vec& a, const Vec& b, const Vec& c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

inline Vec Max(const Vec& a, const Vec& b) { return a > b ? a : b; }

// Halves are added until one lane is left.
template <typename V>  // Vec or VecI
inline auto Sum(const V& v) {
#if defined(__AVX512F__)
  const auto eight =
      __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
      __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  const V& eight = v;
#endif
#if defined(__AVX2__)
  const auto four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
                    __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
#else
  const auto& four = eight;
#endif
  const auto two = four + __builtin_shufflevector(four, four, 2, 3, 2, 3);
  return two[0] + two[1];
}

// The greatest lane, found like the sum.
template <typename V>  // Vec or VecI
inline auto MaxLane(const V& v) {
#if defined(__AVX512F__)
  const auto a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
  const auto b = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  const auto eight = a > b ? a : b;
#else
  const V& eight = v;
#endif
#if defined(__AVX2__)
  const auto c = __builtin_shufflevector(eight, eight, 0, 1, 2, 3);
  const auto d = __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
  const auto four = c > d ? c : d;
#else
  const auto& four = eight;
#endif
  const auto swapped = __builtin_shufflevector(four, four, 2, 3, 2, 3);
  const auto two = four > swapped ? four : swapped;
  return two[0] > two[1] ? two[0] : two[1];
}

inline float Bf16ToFloat(uint16_t bits) {
  return BitCast<float>(static_cast<uint32_t>(bits) << 16);
}

// kLanes unsigned numbers of 16 or 8 bits. Not by __builtin_convertvector,
// which GCC 12 takes apart and puts together again.
inline VecU LoadU16(const void* p) {
#if defined(__AVX512F__)
  return BitCast<VecU>(_mm512_cvtepu16_epi32(
      _mm256_loadu_si256(static_cast<const __m256i*>(p))));
#elif defined(__AVX2__)
  return BitCast<VecU>(
      _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
#else
  VecU16 narrow;
  std::memcpy(&narrow, p, sizeof(narrow));
  return __builtin_convertvector(narrow, VecU);
#endif
}
inline VecU LoadU8(const void* p) {
#if defined(__AVX512F__)
  return BitCast<VecU>(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return BitCast<VecU>(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
#else
  VecU8 narrow;
  std::memcpy(&narrow, p, sizeof(narrow));
  return __builtin_convertvector(narrow, VecU);
#endif
}
// The low 16 or 8 bits of each lane. REQUIRES: nothing is lost by it.
inline void StoreU16(const VecU& v, void* p) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(static_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(BitCast<__m512i>(v)));
#elif defined(__AVX2__)
  const auto bits = BitCast<__m256i>(v);
  _mm_storeu_si128(static_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(bits),
                                    _mm256_extracti128_si256(bits, 1)));
#else
  const VecU16 narrow = __builtin_convertvector(v, VecU16);
  std::memcpy(p, &narrow, sizeof(narrow));
#endif
}
inline void StoreI8(const VecI& v, void* p) {
#if defined(__AVX512F__)
  _mm_storeu_si128(static_cast<__m128i*>(p),
                   _mm512_cvtepi32_epi8(BitCast<__m512i>(v)));
#elif defined(__AVX2__)
  const auto bits = BitCast<__m256i>(v);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(bits),
                                        _mm256_extracti128_si256(bits, 1));
  _mm_storel_epi64(static_cast<__m128i*>(p), _mm_packs_epi16(words, words));
#else
  using VecI8 = int8_t __attribute__((vector_size(kLanes)));
  const VecI8 narrow = __builtin_convertvector(v, VecI8);
  std::memcpy(p, &narrow, sizeof(narrow));
#endif
}

inline Vec LoadBf16(const void* p) { return BitCast<Vec>(LoadU16(p) << 16); }

// Round to nearest even; NaN stays NaN.
inline void StoreBf16(const Vec& v, void* p) {
  const VecU bits = BitCast<VecU>(v);
  const VecU rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const VecU nan = (bits >> 16) | 0x40u;
  const VecU is_nan = BitCast<VecU>(v != v);
  StoreU16((is_nan & nan) | (~is_nan & rounded), p);
}

inline float F16ToFloat(uint16_t half) {
#if defined(__F16C__)
  return _cvtsh_ss(half);
#else
  // Shifts exponent and mantissa into place and repairs the bias by a multiply,
  // which handles subnormals too; infinities and NaN keep their exponent.
  const uint32_t magnitude = half & 0x7fffu;
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  if (magnitude >= 0x7c00u) {
    return BitCast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  }
  const float value = BitCast<float>(magnitude << 13) * 0x1p112f;
  return BitCast<float>(sign | BitCast<uint32_t>(value));
#endif
}

#if !defined(__F16C__)
// Round to nearest even. Values of 65520 and more become infinities.
inline uint16_t FloatToF16(float value) {
  const uint32_t bits = BitCast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 leaves the multiple of 2^-24 in the low bits.
    half = BitCast<uint32_t>(BitCast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}
#endif

inline Vec LoadF16(const void* p) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
#else
  uint16_t halves[kLanes];
  std::memcpy(halves, p, sizeof(halves));
  Vec v;
  for (int i = 0; i < kLanes; ++i) v[i] = F16ToFloat(halves[i]);
  return v;
#endif
}

// e^x within 2 ulp for x in [-87, 88]; below that 0 (so e^-inf is 0), above it
// e^88; NaN stays NaN. Range reduction by ln 2 in two parts, then a polynomial
// of degree 6 (Taylor's coefficients; |r| <= ln2/2 leaves an error under
// 2^-25).
inline Vec Exp(const Vec& x) {
  const Vec low = Set(-87.0f);
  Vec y = x > Set(88.0f) ? Set(88.0f) : x;
  y = y < low ? low : y;               // NaN stays
  const Vec magic = Set(12582912.0f);  // 1.5 · 2^23: adding it rounds
  const Vec n = Fma(y, Set(1.44269504f), magic) - magic;
  Vec r = Fma(n, Set(-0.693359375f), y);
  r = Fma(n, Set(2.12194440e-4f), r);
  Vec p = Set(1.0f / 720);
  p = Fma(p, r, Set(1.0f / 120));
  p = Fma(p, r, Set(1.0f / 24));
  p = Fma(p, r, Set(1.0f / 6));
  p = Fma(p, r, Set(0.5f));
  p = Fma(p, r, Set(1.0f));
  p = Fma(p, r, Set(1.0f));
  const VecI exponent = (__builtin_convertvector(n, VecI) + 127) << 23;
  const Vec result = p * BitCast<Vec>(exponent);
  return x < low ? Vec{} : result;
}

}  // namespace shoal::SHOAL_ISA
