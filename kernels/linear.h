// Dense products y = x Wᵀ + b over weights kept in their stored format.
//
// A weight is packed once at load into whatever layout the backend's kernel
// eats without shuffles (PackedMatrix is opaque and belongs to the table that
// made it). Activations stay f32 outside; with Precision::kFast a kernel may
// round each input row to int8 blocks (quantised weights) or bf16 (weights of
// bf16, FP8 and FP4); with kExact it dequantises weights and multiplies in f32.
//
// Batch invariance: the value of out[t, o] depends on row t and weight row o
// only, bit for bit, never on num_tokens or the thread count. Greedy decoding
// alone and in a batch agree because of this.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/tensor_view.h"

namespace shoal {

enum class Precision : uint8_t {
  kExact,  // f32 activations: what the goldens are held to
  kFast,   // activations rounded to 8 bits or bf16, as the weights' type asks
};

// A weight matrix as stored in a checkpoint.
struct WeightView {
  ConstTensorView data;  // any float or block type, [out_features, in_features]
  ConstTensorView scales;  // F8/F4 only: F32 or F8_E8M0
                           // [ceil(out/scale_rows), ceil(in/scale_cols)]
  int32_t scale_rows = 0;  // 128 for FP8, 1 for FP4; 0 when scales is empty
  int32_t scale_cols = 0;  // 128 for FP8, 32 for FP4

  int64_t out_features() const { return data.dim(0); }
  int64_t in_features() const { return data.dim(1); }
  bool empty() const { return data.empty(); }
};

class PackedMatrix {
 public:
  virtual ~PackedMatrix() = default;
  int64_t out_features() const { return out_features_; }
  int64_t in_features() const { return in_features_; }
  // Bytes owned beyond the stored tensor; 0 when it is used where it lies.
  int64_t owned_bytes() const { return owned_bytes_; }
  // The stored element type this was packed from.
  DType source_dtype() const { return source_dtype_; }
  // Whether the stored tensor is still read after packing (its pages must
  // stay mapped).
  bool borrows_source() const { return borrows_source_; }
  // Whether KeepPacked()'s file had it, so that the stored tensor was not read.
  bool was_packed() const { return was_packed_; }

 protected:
  int64_t out_features_ = 0;
  int64_t in_features_ = 0;
  int64_t owned_bytes_ = 0;
  DType source_dtype_ = DType::kF32;
  bool borrows_source_ = true;
  bool was_packed_ = false;
};

// One product of a group that shares its input (q, k and v; gate and up), so
// that the input is rounded once and the group costs one synchronisation.
struct LinearPart {
  const PackedMatrix* weight = nullptr;
  const float* bias = nullptr;  // [out_features], may be nullptr
  float* out = nullptr;         // [num_tokens, out_features]
  bool accumulate = false;      // true: out += product (residual add)
  int64_t out_stride = 0;       // elements between tokens; 0: out_features
};

// out_p[t, o] (+)= Σ_i in[t, i] · W_p[o, i] + bias_p[o]
struct LinearParams {
  const float* in = nullptr;  // [num_tokens, in_features]
  int64_t num_tokens = 0;
  int64_t in_features = 0;
  std::span<const LinearPart> parts;  // every weight has in_features columns
};

// gate.out[t, o] = silu(gate[t, o]) · up[t, o], the two products as above and
// neither added to what was there. up.out is scratch, written or not.
struct GatedLinearParams {
  const float* in = nullptr;  // [num_tokens, in_features]
  int64_t num_tokens = 0;
  int64_t in_features = 0;
  LinearPart gate, up;  // weights of one shape, rows close together
  float limit = 0;      // as SiluMulParams::limit
};

// One product a head, with inputs and outputs that are parts of wider rows:
//   out[t, h, o] = Σ_i in[t, h, i] · W_h[o, i]
// where head h of token t lies at t · token_stride + h · head_stride. In f32
// whatever the precision weights were packed with (MLA's absorbed projections
// are roundings that the plain form does not have).
struct HeadLinearParams {
  const float* in = nullptr;
  int64_t in_token_stride = 0;  // elements, like all strides here
  int64_t in_head_stride = 0;
  // One a head, of one shape and of a float type.
  std::span<const PackedMatrix* const> weights;
  int64_t num_tokens = 0;
  float* out = nullptr;
  int64_t out_token_stride = 0;
  int64_t out_head_stride = 0;
};

}  // namespace shoal
