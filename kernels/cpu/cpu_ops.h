// CpuOps is one instruction set's set of inner kernels: plain functions over a
// range of rows or tiles, which CpuKernelTable calls from its threads. Each set
// is compiled in its own file (isa_<name>.cc) with its own compiler flags, so
// these headers must not define functions that other files share: the linker
// might keep the copy compiled for the larger instruction set.
//
// Every kernel computes a row's values in an order that does not depend on the
// range or on the number of rows (batch invariance).
#pragma once

#include <cstdint>
#include <string_view>

#include "kernels/attention.h"
#include "kernels/compress.h"
#include "kernels/elementwise.h"
#include "kernels/hyper_connection.h"
#include "kernels/latent_attention.h"
#include "kernels/linear.h"
#include "kernels/sparse_attention.h"

namespace shoal {

// Values that share one scale, in weights and in rounded activations.
inline constexpr int kGroup = 32;

// Activations rounded to 8 bits: x ≈ scale · value, and what kernels want to
// know of a group beside. Offsets are what dots start from: they take off what
// weights stored as unsigned numbers, 8 or 128 more than they are, add to them.
struct RoundedGroup {
  float scale;
  float sum;                // scale · Σ values
  int32_t offset_8;         // -8 · Σ values
  int32_t offset_128;       // -128 · Σ values
  int32_t half_offsets[2];  // -128 · Σ values of either half
  int8_t values[kGroup];    // -127..127
};

// Rows of rounded groups in panels: tokens that pass the weights together, so
// that a weight is unpacked once for all of them. A panel of P tokens is
// [in_features / kGroup, P] groups: one base address serves them all. Panels
// follow each other in the order of tokens, all of them CpuOps::max_panel but
// for the last, which has what is left.
struct RoundedRows {
  const RoundedGroup* groups = nullptr;
  int64_t num_tokens = 0;
  int64_t in_features = 0;
};

// Integer weights repacked into tiles of `tile_rows` output rows. A tile is its
// groups in order; a group of R rows is
//   R f16 scales (two of them where scales cover 16 values),
//   R f16 minima (only with has_min),
//   4-bit: 4 · R · 4 bytes; byte [c][r][j] holds weight 8c + j of row r in its
//          low half and weight 8c + 4 + j in its high half
//   8-bit: 8 · R · 4 bytes; byte [c][r][j] holds weight 4c + j of row r
// so that a dot instruction finds four neighbouring weights of each row in one
// 32-bit lane. Kinds of two levels (kU4Super) have before every kSuperGroups
// groups R f16 scales and R f16 minima, and in a group R bytes and R bytes that
// multiply them. Weight = scale · q (+ min); q is 0..15, -8..7 (has_offset:
// stored plus 8), a table's value, or -128..127.
struct IntTiles {
  const uint8_t* data = nullptr;
  int64_t out_features = 0;  // the last tile is padded with zero scales
  int64_t in_features = 0;
  int64_t tile_bytes = 0;
};
enum class IntKind : uint8_t {
  kU4Min,    // Q4_1: scale · q + min
  kS4,       // Q4_0: scale · (q - 8)
  kTable4,   // IQ4_NL, IQ4_XS: scale · kIq4Levels[q]
  kS8,       // Q8_0, Q5_0, Q3_K...: scale · q
  kU8Min,    // Q5_1, Q5_K: scale · q + min
  kS8Half,   // Q6_K: two scales a group, 16 values each
  kU4Super,  // Q4_K: (d · scale) · q - dmin · min
};
inline constexpr int kNumIntKinds = 7;
inline constexpr int kSuperGroups = 8;

// Rows of plain floats where the checkpoint has them.
struct FloatRows {
  const void* data = nullptr;  // [out_features, in_features], any alignment
  DType dtype = DType::kF32;   // kF32, kF16 or kBF16
  int64_t in_features = 0;
};

// Weights of bf16, FP8 and FP4 repacked for products in pairs of bf16, in tiles
// of kPairTileRows output rows. A tile is its scales, then steps of 64 bytes
// for its first 16 rows and 64 for the others; 16 rows' bytes are
//   kBf16  [row][2]: two columns
//   kE4M3  [row / 4][2][row % 4][2]: four columns, the second [2] times two
//   kE2M1  the same twice: columns 0-3 in the low halves, 4-7 in the high ones
// so that widened bytes are vectors of pairs. Columns are padded with zeros to
// PairColumns, the last tile with rows of zeros. A scale covers `group`
// columns: kE4M3 one f32 a tile, kE2M1 one E8M0 a row, none 0 or 255.
enum class PairKind : uint8_t { kBf16, kE4M3, kE2M1 };
inline constexpr int kPairTileRows = 32;
struct PairTiles {
  const uint8_t* data = nullptr;
  PairKind kind = PairKind::kBf16;
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t group = 0;        // a multiple of 8; unused by kBf16
  int64_t scale_bytes = 0;  // of a tile, a multiple of 64
  int64_t tile_bytes = 0;   // with its scales
};
static constexpr int64_t PairColumns(int64_t in_features) {
  return (in_features + 31) / 32 * 32;
}
// Floats' places from one row of rounded pairs to the next: not a power of two,
// as rows would take each other's places in the first-level cache.
static constexpr int64_t PairStride(int64_t in_features) {
  return PairColumns(in_features) / 2 + 16;
}
// Tiles, as pairs, that stay in the second-level cache while all tokens pass.
static constexpr int64_t PairBlockTiles(int64_t in_features) {
  const int64_t tile_bytes = PairColumns(in_features) * 2 * kPairTileRows;
  const int64_t fit = (int64_t{384} << 10) / (tile_bytes + 1);
  return fit > 1 ? fit : 1;
}
static constexpr int64_t PairScratchFloats(int64_t in_features) {
  return PairBlockTiles(in_features) * PairColumns(in_features) / 2 *
         kPairTileRows;
}

// One product's destination; see LinearPart.
struct LinearOut {
  const float* bias = nullptr;
  float* out = nullptr;
  int64_t stride = 0;  // elements between tokens
  bool accumulate = false;
};

// Keys of a sequence that one softmax covers before it is merged into those
// before it: what several threads can share of one row's work, small enough for
// short contexts to have several, large enough for a merge to cost a prompt's
// rows about 2 %.
inline constexpr int32_t kAttentionSegment = 256;

// A part of paged attention: new tokens [first, first + count) of sequence
// `seq`, heads [first_head, first_head + num_heads) of the group of `kv_head`,
// keys of segments [segment_begin, segment_end).
struct AttentionItem {
  int32_t seq = 0;
  int32_t kv_head = 0;
  int32_t first_head = 0;
  int32_t num_heads = 0;
  int32_t first = 0;
  int32_t count = 0;
  int32_t segment_begin = 0;
  int32_t segment_end = 0;
};

// One head of a latent attention with its plain weights.
struct LatentHead {
  const LatentAttentionParams* params = nullptr;
  FloatRows k;  // [rank, nope_dim]
  FloatRows v;  // [v_dim, rank]
  int64_t rank = 0;
  int64_t nope_dim = 0;
  int64_t v_dim = 0;
};

struct CpuOps {
  std::string_view name;
  int tile_rows = 0;
  int max_panel = 0;       // see RoundedRows
  bool has_pairs = false;  // round_pairs and pair_linear work

  // Rounds columns [begin, end): a column is one group of a panel's tokens, and
  // panels have in_features / kGroup of them each, one after another. `groups`
  // holds PaddedTokens(num_tokens) rows.
  void (*round_rows)(const float* in, int64_t in_features, int64_t num_tokens,
                     int64_t begin, int64_t end, RoundedGroup* groups);
  // Tiles [begin, end) against all tokens.
  void (*int_linear)(IntKind kind, const IntTiles& weight,
                     const RoundedRows& in, const LinearOut& out, int64_t begin,
                     int64_t end);
  // Output rows [begin, end) against all tokens, activations in f32.
  void (*float_linear)(const FloatRows& weight, const float* in,
                       int64_t num_tokens, const LinearOut& out, int64_t begin,
                       int64_t end);
  // Rows [begin, end) rounded to bf16, PairStride(in_features) floats apart.
  void (*round_pairs)(const float* in, int64_t in_features, int64_t begin,
                      int64_t end, float* words);
  // Tiles [begin, end) against all tokens; `scratch` holds PairScratchFloats.
  void (*pair_linear)(const PairTiles& weight, const float* words,
                      int64_t num_tokens, const LinearOut& out, int64_t begin,
                      int64_t end, float* scratch);
  // Row `row` of a stored matrix with its scales, as f32 [in_features].
  void (*widen_row)(const WeightView& weight, int64_t row, float* out);

  // Rows or tokens [begin, end).
  void (*rms_norm)(const RmsNormParams& params, int64_t begin, int64_t end);
  void (*layer_norm)(const LayerNormParams& params, int64_t begin, int64_t end);
  void (*rope)(const RopeParams& params, int64_t begin, int64_t end);
  void (*silu_mul)(const SiluMulParams& params, int64_t begin, int64_t end);
  void (*cache_write)(const CacheWriteParams& params, int64_t begin,
                      int64_t end);
  // After cache_write of all rows, only with pairs: tiles whose last slot is
  // one of rows [begin, end) become full ones. `scratch`: kCacheTile / 2 ·
  // head_dim values.
  void (*fill_cache_tiles)(const CacheWriteParams& params, int64_t begin,
                           int64_t end, float* scratch);
  // One item of attention with all segments into params.out, or with one into
  // `states`. `scratch` holds attention_scratch_floats(params, rows) values for
  // the item's num_heads * count rows, `states` attention_states_floats.
  void (*attention)(const PagedAttentionParams& params,
                    const AttentionItem& item, float* states, float* scratch);
  // The states of all segments of an item, one after another, into params.out.
  void (*attention_merge)(const PagedAttentionParams& params,
                          const AttentionItem& item, float* states);
  int64_t (*attention_scratch_floats)(const PagedAttentionParams& params,
                                      int64_t rows);
  int64_t (*attention_states_floats)(const PagedAttentionParams& params,
                                     int64_t rows);

  // Head `head_index` of sequence `seq`, all its new tokens. `scratch` holds
  // latent_attention_scratch_floats(head, q_len) values.
  void (*latent_attention)(const LatentHead& head, int32_t seq,
                           int32_t head_index, float* scratch);
  int64_t (*latent_attention_scratch_floats)(const LatentHead& head,
                                             int32_t q_len);

  // scores[j] = I(token, j) for begin <= j < end; `seq` is the token's.
  // `scratch` holds key_scores_scratch_floats(params) values.
  void (*key_scores)(const KeySelectParams& params, int32_t seq, int32_t token,
                     int64_t begin, int64_t end, float* scores, float* scratch);
  int64_t (*key_scores_scratch_floats)(const KeySelectParams& params);
  // Heads [first_head, first_head + num_heads) of one token.
  void (*sparse_attention)(const SparseAttentionParams& params, int64_t token,
                           int32_t first_head, int32_t num_heads,
                           float* scratch);
  int64_t (*sparse_attention_scratch_floats)(
      const SparseAttentionParams& params, int32_t num_heads);
  // Channels [begin, end) of all sequences, both multiples of 16 or the end.
  void (*compress)(const CompressParams& params, int64_t begin, int64_t end);
  // Tokens [begin, end).
  void (*hyper_mix)(const HyperMixParams& params, int64_t begin, int64_t end);
  void (*hyper_expand)(const HyperExpandParams& params, int64_t begin,
                       int64_t end);
};

const CpuOps& ScalarOps();
#if defined(__x86_64__)
const CpuOps& Avx2Ops();
const CpuOps& Avx512Ops();
#endif

}  // namespace shoal
