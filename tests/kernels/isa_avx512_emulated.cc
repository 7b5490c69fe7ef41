// isa_avx512.cc once more for machines without AVX-512: its intrinsics become
// SIMDe's portable functions, which do the same arithmetic. Slow; tests only.
#include <immintrin.h>
#include <simde/x86/avx512.h>

#define SHOAL_ISA avx512_emulated

namespace shoal::SHOAL_ISA {

// Those that SIMDe 0.7.4 lacks.
inline simde__m512 CvtI32ToF32(simde__m512i integers) {
  using Integers = int32_t __attribute__((vector_size(64)));
  return __builtin_convertvector((Integers)integers, simde__m512);
}
using U8s = uint8_t __attribute__((vector_size(16)));
using I8s = int8_t __attribute__((vector_size(16)));
using U16s = uint16_t __attribute__((vector_size(32)));
using I32s = int32_t __attribute__((vector_size(64)));
inline simde__m512i CvtU8ToI32(__m128i bytes) {
  return (simde__m512i) __builtin_convertvector((U8s)bytes, I32s);
}
inline simde__m512i CvtU16ToI32(__m256i words) {
  return (simde__m512i) __builtin_convertvector((U16s)words, I32s);
}
inline __m256i CvtI32ToI16(simde__m512i integers) {
  return (__m256i) __builtin_convertvector((I32s)integers, U16s);
}
inline __m128i CvtI32ToI8(simde__m512i integers) {
  return (__m128i) __builtin_convertvector((I32s)integers, I8s);
}
inline simde__m512 CvtHalves(__m256i halves) {
  const __m256 parts[2] = {
      _mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
      _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
  return simde_mm512_loadu_ps(parts);
}
inline __m256i CvtToHalves(simde__m512 floats) {
  __m256 parts[2];
  simde_mm512_storeu_ps(parts, floats);
  return _mm256_setr_m128i(_mm256_cvtps_ph(parts[0], 0),
                           _mm256_cvtps_ph(parts[1], 0));
}
inline simde__m512 LoadMasked(__mmask16 mask, const float* p) {
  float lanes[16] = {};
  for (int i = 0; i < 16; ++i) {
    if ((mask >> i & 1) != 0) lanes[i] = p[i];
  }
  return simde_mm512_loadu_ps(lanes);
}
inline void StoreMasked(float* p, __mmask16 mask, simde__m512 floats) {
  float lanes[16];
  simde_mm512_storeu_ps(lanes, floats);
  for (int i = 0; i < 16; ++i) {
    if ((mask >> i & 1) != 0) p[i] = lanes[i];
  }
}
// c + a · b of two bf16 a lane, the high ones first.
inline simde__m512 DotBf16(simde__m512 c, simde__m512i a, simde__m512i b) {
  using Floats = float __attribute__((vector_size(64)));
  using U32s = uint32_t __attribute__((vector_size(64)));
  const U32s x = (U32s)a, y = (U32s)b;
  const auto sum =
      (Floats)c + (Floats)(x & 0xffff0000u) * (Floats)(y & 0xffff0000u);
  return (simde__m512)(sum + (Floats)(x << 16) * (Floats)(y << 16));
}
// Rounded to bf16, b's values below a's; NaN stays NaN.
inline simde__m512i CvtToBf16(simde__m512 a, simde__m512 b) {
  float in[32];
  simde_mm512_storeu_ps(in, b);
  simde_mm512_storeu_ps(in + 16, a);
  uint16_t out[32];
  for (int i = 0; i < 32; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, in + i, 4);
    const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    out[i] = static_cast<uint16_t>(
        (in[i] != in[i] ? bits | 0x400000u : rounded) >> 16);
  }
  return simde_mm512_loadu_si512(out);
}

}  // namespace shoal::SHOAL_ISA

#define __AVX512F__ 1
#define __AVX512BF16__ 1
#define __m512 simde__m512
#define __m512bh simde__m512i
#define __m512i simde__m512i
#define _mm512_add_epi32 simde_mm512_add_epi32
#define _mm512_and_si512 simde_mm512_and_si512
#define _mm512_broadcast_i32x4 simde_mm512_broadcast_i32x4
#define _mm512_cvtne2ps_pbh CvtToBf16
#define _mm512_cvtepi32_epi16 CvtI32ToI16
#define _mm512_cvtepi32_epi8 CvtI32ToI8
#define _mm512_cvtepi32_ps CvtI32ToF32
#define _mm512_cvtepu16_epi32 CvtU16ToI32
#define _mm512_cvtph_ps CvtHalves
#define _mm512_cvtps_ph(a, rounding) CvtToHalves(a)
#define _mm512_cvtepu8_epi32 CvtU8ToI32
#define _mm512_dpbusd_epi32 simde_mm512_dpbusd_epi32
#define _mm512_dpbf16_ps DotBf16
#define _mm512_fmadd_ps simde_mm512_fmadd_ps
#define _mm512_loadu_si512 simde_mm512_loadu_si512
#define _mm512_mask_storeu_ps StoreMasked
#define _mm512_maskz_loadu_ps LoadMasked
#define _mm512_mul_ps simde_mm512_mul_ps
#define _mm512_set1_epi32 simde_mm512_set1_epi32
#define _mm512_set1_epi8 simde_mm512_set1_epi8
#define _mm512_set1_ps simde_mm512_set1_ps
#define _mm512_setzero_ps simde_mm512_setzero_ps
#define _mm512_setzero_si512 simde_mm512_setzero_si512
#define _mm512_shuffle_epi8 simde_mm512_shuffle_epi8
#define _mm512_srli_epi16 simde_mm512_srli_epi16
#define _mm512_storeu_ps simde_mm512_storeu_ps
#define _mm512_unpackhi_epi8 simde_mm512_unpackhi_epi8
#define _mm512_unpacklo_epi8 simde_mm512_unpacklo_epi8
#define _mm512_xor_si512 simde_mm512_xor_si512

#include "kernels/cpu/simd/int_linear_avx512.h"
#include "kernels/cpu/simd/ops.h"
#include "tests/kernels/isa_avx512_emulated.h"

namespace shoal {

const CpuOps& EmulatedAvx512Ops() {
  namespace isa = avx512_emulated;
  static constexpr CpuOps kOps =
      isa::MakeOps<isa::Avx512IntKernel>("avx512_emulated");
  return kOps;
}

}  // namespace shoal
