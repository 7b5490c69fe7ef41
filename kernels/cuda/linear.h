// The products behind Linear, HeadLinear and MoeExperts: groups of products
// with matrices of one shape and type. Weights are read as they are stored.
//
// Exact products have activations in f32. A value is Σ over lanes of a warp of
// Σ over that lane's units of eight. Fast ones run on the tensor cores, weights
// and activations rounded to bf16 and sums in f32; see linear_tensor.cuh. The
// order of either depends on in_features only: a row's result is the same to
// the bit whatever the others (batch invariance), unless the context has a
// DenseGemm.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/launch.h"
#include "kernels/dtype.h"

namespace shoal::cuda {

inline constexpr int kTokenTile = 8;

// What matrices of a group share; see decode_weights.cuh.
struct MatrixShape {
  DType dtype = DType::kF32;
  int64_t out_features = 0;
  int64_t in_features = 0;
  bool aligned = false;  // every matrix begins at a 16-byte address
  int32_t scale_rows = 0;
  int32_t scale_cols = 0;
  bool scales_are_e8m0 = false;
  bool fast = false;  // products on the tensor cores; never for f32 weights
};

// What the values of a rounded row become, and how they lie: bf16 as in the
// width, or as warpgroups read them (linear_steps.cuh), for types whose steps
// share no blocks and for those in which four do; or E4M3 as in the width.
enum class InputForm : uint8_t { kWidth, kSteps, kStepsOfBlocks, kE4M3 };

// Input rows `width` apart, zeros behind their end; those of group g begin at
// row g · group_rows. Device memory.
struct RoundedInput {
  const uint16_t* data = nullptr;  // two values each of E4M3
  int64_t width = 0;
  int64_t group_rows = 0;  // 0: all groups read the same rows
  InputForm form = InputForm::kWidth;
  // Of E4M3: values [128 k, 128 k + 128) of row r are times scales[k · num_rows
  // + r].
  const float* scales = nullptr;
};

// Rows [first, first + count) belong to `group`; none, where count is 0.
struct alignas(16) RowTile {
  int32_t group, first, count, unused;
};

// Sums that a product's results go into, those of experts: choice c of a token
// has result row row_of_choice[c], or row c itself where rows name their
// groups.
//   out[t, o] += Σ_k weights[c] · results[row of c, o],  c = t · top_k + k
// in the order of k. Device memory.
struct ChoiceSum {
  const float* weights = nullptr;          // [num_tokens · top_k]
  const int32_t* row_of_choice = nullptr;  // like weights, -1: none
  int64_t num_tokens = 0;
  int32_t top_k = 0;
  const float* last = nullptr;  // [num_tokens, out_features], added at the end
  float* out = nullptr;         // [num_tokens, out_features]; nullptr: no sums
};

// out_g[r, o] (+)= Σ_i in_g[r, i] · W_g[o, i] + bias[o]. Row r of group g lies
// at r · stride + g · group_stride.
struct GroupedProduct {
  MatrixShape shape;
  WeightPointers one;                      // where there is one group, else
  const WeightPointers* groups = nullptr;  // device [num_groups]
  int64_t num_groups = 1;
  const float* in = nullptr;
  int64_t in_stride = 0;
  int64_t in_group_stride = 0;
  const float* bias = nullptr;
  float* out = nullptr;
  int64_t out_stride = 0;
  int64_t out_group_stride = 0;
  bool accumulate = false;
  // Of the first of two parts, which have one shape: its sums gate the other's,
  // out = silu(first) ⊙ second with SiluMulParams::limit. RunGatedProducts()
  // sets it.
  bool gates = false;
  float gate_limit = 0;
  // Of parts behind others: of rows and an input of its own, in the same launch
  // where CanRunBeside().
  bool beside = false;
  int64_t num_rows = 0;  // of every group; of all together with `tiles`

  // Groups that have rows of their own (experts), in tiles of at most
  // RowsOfTile() rows, those of a group side by side. Row r reads input row
  // source_rows[r] / source_divisor. Device memory; nullptr otherwise.
  const RowTile* tiles = nullptr;
  int64_t num_tiles = 0;
  const int32_t* source_rows = nullptr;  // nullptr: r itself
  // The same without sorting, for at most kMostListed rows that average no more
  // than eight a group: each names its group, or none that has weights, and
  // reads input row r / source_divisor.
  const int32_t* row_groups = nullptr;
  int32_t source_divisor = 1;

  // Made by the product itself where SumsChoices().
  ChoiceSum sum;

  RoundedInput rounded;  // of `in`, for kernels that read it
};

inline constexpr int64_t kMostListed = 64;

inline bool HasOwnRows(const GroupedProduct& product) {
  return product.tiles != nullptr || product.row_groups != nullptr;
}
// Rows of a group on average.
inline int64_t RowsOfGroup(const GroupedProduct& product) {
  return HasOwnRows(product) ? product.num_rows / product.num_groups
                             : product.num_rows;
}
// Groups, or their tiles or rows where they have rows of their own.
inline int64_t NumGroupTiles(const GroupedProduct& product) {
  return product.tiles != nullptr        ? product.num_tiles
         : product.row_groups != nullptr ? product.num_rows
                                         : product.num_groups;
}
// The largest tile of groups that have rows of their own.
inline int32_t RowsOfTile(int64_t num_rows, int64_t num_groups, bool fast) {
  const int64_t rows = num_rows / num_groups;
  return !fast || rows <= 8 ? 8 : rows <= 32 ? 32 : rows <= 64 ? 64 : 128;
}
// Whether the product reads its input as bf16.
inline bool NeedsRoundedInput(const GroupedProduct& product) {
  constexpr int64_t kFewRows = 32;
  return product.shape.fast && RowsOfGroup(product) > kFewRows;
}
// Features of a thread block of products of few rows on the tensor cores.
inline constexpr int kFewRowsFeatures = 32;
// Whether the last of those that have the same features makes the product's
// `sum`, not whoever ran the product.
inline bool SumsChoices(const GroupedProduct& product) {
  return product.shape.fast && !NeedsRoundedInput(product) &&
         product.shape.out_features <=
             kFewRowsFeatures * LaunchContext::kCounters;
}
// The product's input, good until the next call: for all products of an op that
// read the same input in the same form. REQUIRES: for kE4M3 rows of no group,
// of a width that 128 divides.
RoundedInput RoundInput(LaunchContext& context, const GroupedProduct& product,
                        InputForm form);
// Its rows' `width`: whole steps of the products.
inline int64_t RoundedWidth(int64_t in_features) {
  return (in_features + 127) / 128 * 128;
}

// REQUIRES: IsProductType(shape.dtype).
void RunProduct(LaunchContext& context, const GroupedProduct& product);
// Products of the same rows of the same input, side by side where their types
// allow it.
void RunProducts(LaunchContext& context,
                 std::span<const GroupedProduct> products);
// gate.out = silu(gate) ⊙ up, the two products as above; up.out is scratch.
// With `num_rows` (on the device) only the first *num_rows rows matter.
void RunGatedProducts(LaunchContext& context, GroupedProduct gate,
                      const GroupedProduct& up, float limit,
                      const int32_t* num_rows);
// The same with another pair beside it, or a product beside another. REQUIRES:
// CanRunBeside() of each two of them.
bool CanRunBeside(const GroupedProduct& one, const GroupedProduct& other);
void RunGatedBeside(LaunchContext& context,
                    std::span<const GroupedProduct, 2> gate_up,
                    std::span<const GroupedProduct, 2> beside, float limit);
void RunBeside(LaunchContext& context, const GroupedProduct& product,
               GroupedProduct beside);
bool IsProductType(DType dtype);

// Fast products of one launch, of one type: at most kMostParts of the same rows
// of the same input, or two and two beside them.
using ProductParts = std::span<const GroupedProduct>;
inline constexpr size_t kMostParts = 3;

// Which file instantiates which types, for exact products and for fast ones.
// False: not one of theirs. `rounded`: the input as the last launch wanted it,
// made anew where this one wants another form.
bool RunPlainProduct(LaunchContext& context, const GroupedProduct& product);
bool RunScaledProduct(LaunchContext& context, const GroupedProduct& product);
bool RunBlock32Product(LaunchContext& context, const GroupedProduct& product);
bool RunBlock256Product(LaunchContext& context, const GroupedProduct& product);
bool RunPlainTensorProducts(LaunchContext& context, const ProductParts& parts,
                            RoundedInput& rounded);
bool RunScaledTensorProducts(LaunchContext& context, const ProductParts& parts,
                             RoundedInput& rounded);
bool RunBlock32TensorProducts(LaunchContext& context, const ProductParts& parts,
                              RoundedInput& rounded);
bool RunBlock256TensorProducts(LaunchContext& context,
                               const ProductParts& parts,
                               RoundedInput& rounded);

}  // namespace shoal::cuda
