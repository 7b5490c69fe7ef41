// Latent rows of sequences to the keys and values of every head, by warpgroups:
// what attention of long chunks reads (ExpandedRows). A thread block has 128
// rows of a sequence and one head, a warpgroup 64 of the rows; the rank comes
// in steps, of which one is on its way while another is multiplied.
#include "kernels/cuda/attention_ops.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace shoal::cuda {
namespace {

constexpr int kNope = ExpandedRows::kNopeDim;
constexpr int kRope = ExpandedRows::kRopeDim;
constexpr int kKey = ExpandedRows::kKeyDim;
constexpr int kValue = ExpandedRows::kValueDim;
constexpr int kRows = 128;
constexpr int kThreads = 2 * kWarpsOfGroup * kWarpSize;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kDepth = 64;  // of a step
constexpr int kRowBytes = kRows * kDepth * 2;
constexpr int kKeyWeightBytes = kDepth * kNope * 2;
constexpr int kValueWeightBytes = kValue * kDepth * 2;
constexpr int kStepBytes = kRowBytes + kKeyWeightBytes + kValueWeightBytes;
constexpr size_t kSharedBytes = 2 * kStepBytes;

struct ExpandArgs {
  const uint16_t* cache;  // [slots, rank + kRope]
  int32_t rank;
  const int32_t* context_lens;
  const int32_t* block_tables;
  int32_t max_blocks, block_size;
  const WeightPointers* k;  // of head first_head on: [rank, kNope]
  const WeightPointers* v;  // [kValue, rank]
  ExpandedRows rows;
};

// Copies kNumRows rows of kBlocks pieces of 16 bytes, row r from `from(r)` on,
// nullptr for zeros. Lanes take eight rows of four neighbouring pieces: whole
// sectors there, all banks here.
template <int kNumRows, int kBlocks, typename From>
__device__ __forceinline__ void CopyBlocks(uint8_t* to, const From& from) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  static_assert(kNumRows % (8 * kWarps) == 0 && kBlocks % 4 == 0);
#pragma unroll
  for (int first = 0; first < kNumRows; first += 8 * kWarps) {
    const int row = first + 8 * warp + lane % 8;
    const uint16_t* source = from(row);
    const bool there = source != nullptr;
#pragma unroll
    for (int i = 0; i < kBlocks; i += 4) {
      const int block = i + lane / 8;
      CopyAsync16(to + BlockAt(row, block, kBlocks),
                  there ? source + 8 * block : nullptr, !there);
    }
  }
}

// Grid: tiles of a sequence's rows, sequences, heads.
__global__ __launch_bounds__(kThreads, 1) void ExpandLatentKernel(
    const __grid_constant__ ExpandArgs a) {
#if SHOAL_HAS_WARPGROUPS
  const auto seq = static_cast<int32_t>(blockIdx.y);
  const auto head = static_cast<int32_t>(blockIdx.z);
  const int32_t context = a.context_lens[seq];
  const auto first = static_cast<int32_t>(blockIdx.x) * kRows;
  if (first >= context) return;
  uint8_t* const shared = DynamicShared();
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarpSize;
  const int warp = thread / kWarpSize;
  const auto* k_weight = reinterpret_cast<const uint16_t*>(a.k[head].data);
  const auto* v_weight = reinterpret_cast<const uint16_t*>(a.v[head].data);
  const int32_t* table = a.block_tables + int64_t{seq} * a.max_blocks;
  const auto latent = [&](int32_t row) -> const uint16_t* {
    const int32_t j = first + row;
    if (j >= context) return nullptr;
    const int64_t slot =
        int64_t{table[j / a.block_size]} * a.block_size + j % a.block_size;
    return a.cache + slot * (a.rank + kRope);
  };
  const auto fetch = [&](int32_t begin, int buffer) {
    uint8_t* to = shared + buffer * kStepBytes;
    CopyBlocks<kRows, kDepth / 8>(to, [&](int row) -> const uint16_t* {
      const uint16_t* from = latent(row);
      return from == nullptr ? nullptr : from + begin;
    });
    to += kRowBytes;
    CopyBlocks<kDepth, kNope / 8>(
        to, [&](int row) { return k_weight + int64_t{begin + row} * kNope; });
    to += kKeyWeightBytes;
    CopyBlocks<kValue, kDepth / 8>(
        to, [&](int row) { return v_weight + int64_t{row} * a.rank + begin; });
    CommitCopies();
  };

  float keys[kNope / 2];
  float values[kValue / 2];
  int buffer = 0;
  fetch(0, buffer);
  for (int32_t begin = 0; begin < a.rank; begin += kDepth) {
    if (begin + kDepth < a.rank) {
      fetch(begin + kDepth, 1 - buffer);
      WaitForCopies<1>();
    } else {
      WaitForCopies<0>();
    }
    PublishToProducts();
    __syncthreads();
    const uint8_t* rows = shared + buffer * kStepBytes;
    uint32_t left[kDepth / kTileDepth][4];
#pragma unroll
    for (int k = 0; k < kDepth / kTileDepth; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // rows g, g + 8; of k, 0 to 7 and on
        const int at = BlockAt(16 * warp + lane / 4 + i % 2 * 8, 2 * k + i / 2,
                               kDepth / 8);
        left[k][i] =
            *reinterpret_cast<const uint32_t*>(rows + at + lane % 4 * 4);
      }
      PinRegisters(left[k]);
    }
    OpenProducts();
    SharedTile k_tile = {rows + kRowBytes, kNope / 8 * kBlockBytes,
                         kBlockBytes};
    SharedTile v_tile = {rows + kRowBytes + kKeyWeightBytes, kBlockBytes,
                         kDepth / 8 * kBlockBytes};
#pragma unroll
    for (int k = 0; k < kDepth / kTileDepth; ++k) {
      const bool keep = begin > 0 || k > 0;
      MultiplyAsync<kNope, true>(left[k], k_tile, keep, keys);
      MultiplyAsync<kValue>(left[k], v_tile, keep, values);
      k_tile.data += 2 * k_tile.half_stride;
      v_tile.data += 2 * v_tile.half_stride;
    }
    CommitProducts();
    WaitForProducts<0>();
    PinRegisters(keys);
    PinRegisters(values);
    __syncthreads();
    buffer = 1 - buffer;
  }

  const int64_t first_slot = seq * a.rows.slots_of_seq + first;
  const auto key_row = [&](int row) {
    return a.rows.keys + ((first_slot + row) * a.rows.num_heads + head) * kKey;
  };
  const auto value_row = [&](int row) {
    return a.rows.values +
           ((first_slot + row) * a.rows.num_heads + head) * kValue;
  };
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = 16 * warp + lane / 4 + 8 * half;
    if (first + row >= context) continue;
    auto* key = reinterpret_cast<uint32_t*>(key_row(row)) + lane % 4;
    auto* value = reinterpret_cast<uint32_t*>(value_row(row)) + lane % 4;
#pragma unroll
    for (int n = 0; n < kNope / 8; ++n) {
      key[4 * n] = PackBF16(keys[4 * n + 2 * half], keys[4 * n + 2 * half + 1]);
    }
#pragma unroll
    for (int n = 0; n < kValue / 8; ++n) {
      value[4 * n] =
          PackBF16(values[4 * n + 2 * half], values[4 * n + 2 * half + 1]);
    }
  }
  constexpr int kPieces = kRope / 8;
  for (int i = thread; i < kRows * kPieces; i += kThreads) {
    const uint16_t* from = latent(i / kPieces);
    if (from == nullptr) continue;
    const int at = i % kPieces * 8;
    *reinterpret_cast<uint4*>(key_row(i / kPieces) + kNope + at) =
        *reinterpret_cast<const uint4*>(from + a.rank + at);
  }
#endif
}

}  // namespace

bool FitsExpandedAttention(const LaunchContext& context,
                           const LatentAttentionParams& p,
                           const LatentWeights& weights) {
  const auto fits = [](const MatrixShape& shape) {
    return shape.dtype == DType::kBF16 && shape.fast && shape.aligned;
  };
  return context.warpgroups().attention && p.cache.dtype == DType::kBF16 &&
         fits(weights.k_shape) && fits(weights.v_shape) &&
         weights.k_shape.in_features == kNope && p.rope_dim == kRope &&
         weights.v_shape.out_features == kValue &&
         weights.k_shape.out_features % kDepth == 0 &&
         reinterpret_cast<uintptr_t>(p.cache.data) % 16 == 0;
}

void ExpandLatentRows(LaunchContext& context, const LatentAttentionParams& p,
                      const LatentWeights& weights, const ExpandedRows& rows) {
  ExpandArgs a;
  a.cache = static_cast<const uint16_t*>(p.cache.data);
  a.rank = static_cast<int32_t>(weights.k_shape.out_features);
  a.context_lens = p.context_lens;
  a.block_tables = p.block_tables;
  a.max_blocks = p.max_blocks;
  a.block_size = static_cast<int32_t>(p.cache.dim(1));
  a.k = weights.k + rows.first_head;
  a.v = weights.v + rows.first_head;
  a.rows = rows;
  const dim3 grid(
      static_cast<unsigned>((rows.slots_of_seq + kRows - 1) / kRows),
      static_cast<unsigned>(p.num_seqs), static_cast<unsigned>(rows.num_heads));
  context.Launch(ExpandLatentKernel, grid, kThreads, kSharedBytes, a);
}

}  // namespace shoal::cuda
