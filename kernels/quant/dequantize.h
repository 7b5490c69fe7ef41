// Reference decoding of every stored element type to f32: the meaning of the
// formats, against which fast kernels are tested. Exact up to the roundings of
// the one f32 expression each format is defined by. Plain loops, no threads,
// no allocation; sources may lie at any address.
//
// Block layouts, in the order of their bytes (d, m, dmin are f16; nibble j of
// qs[16] is the low half of byte j for j < 16, else the high half of byte
// j - 16):
//
//   type    values bytes  layout                          value
//   Q4_0        32    18  d qs[16]                        d (nib - 8)
//   Q4_1        32    20  d m qs[16]                      d nib + m
//   Q5_0        32    22  d u32:qh qs[16]                 d (n5 - 16)
//   Q5_1        32    24  d m u32:qh qs[16]               d n5 + m
//   Q8_0        32    34  d i8:qs[32]                     d qs
//   IQ4_NL      32    18  d qs[16]                        d T[nib]
//   MXFP4       32    17  u8:e qs[16]                     2^(e-128) M[nib]
//   Q2_K       256    84  sc[16] qs[64] d dmin            d s q - dmin m
//   Q3_K       256   110  hmask[32] qs[64] sc[12] d       d (s-32) (q - 4 !h)
//   Q4_K       256   144  d dmin sc[12] qs[128]           d s q - dmin m
//   Q5_K       256   176  d dmin sc[12] qh[32] qs[128]    d s q - dmin m
//   Q6_K       256   210  ql[128] qh[64] i8:sc[16] d      d s (q - 32)
//   IQ4_XS     256   136  d u16:sh sl[4] qs[128]          d (s-32) T[nib]
//
// n5 is nib with bit j of qh as its fifth bit; h is a bit of hmask. Where q, s
// and m of the 256-blocks lie is written out in dequantize.cc.
//
// T and M are the tables of dequantize.cc. F8_E4M3, F8_E5M2, F8_E8M0 and
// F4_E2M1 decode to raw values: the scales are separate tensors, which
// DequantizeWeightRow() applies.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"
#include "kernels/linear.h"

namespace shoal {

// Decodes `n` consecutive values. Integers convert, BOOL gives 0 or 1.
// REQUIRES: n >= 0 and a multiple of the type's block_elements; `dst` holds n.
void DequantizeRow(DType dtype, const void* src, int64_t n, float* dst);

// Row `row` of a matrix [out, in] with its scales applied, into dst[in].
// REQUIRES: weight.data.rank == 2, 0 <= row < out_features().
void DequantizeWeightRow(const WeightView& weight, int64_t row, float* dst);

// IQ4_NL's and IQ4_XS's levels.
extern const int8_t kIq4Levels[16];
// MXFP4's levels, doubled so that they are integers.
extern const int8_t kMxfp4Levels[16];

// 6-bit scale and minimum of sub-block `i` (0..7) from the 12 packed bytes of
// Q4_K and Q5_K.
inline void UnpackK4Scale(const uint8_t* packed, int i, uint8_t* scale,
                          uint8_t* min) {
  if (i < 4) {
    *scale = packed[i] & 63;
    *min = packed[i + 4] & 63;
  } else {
    *scale = (packed[i + 4] & 15) | ((packed[i - 4] >> 6) << 4);
    *min = (packed[i + 4] >> 4) | ((packed[i] >> 6) << 4);
  }
}

}  // namespace shoal
