// Attention of many query rows by warpgroups: over a paged bf16 cache, for the
// sequences of a step that bring more rows than one tile of the other kernel
// has, and over latent rows that were expanded. Steps, chunks and every sum are
// those of TensorTile (tensor_tile.cuh): a row has the same bits from either.
//
// A thread block has kRows neighbouring (token, head) rows of one kv head, a
// warpgroup 64 of them: scores of 64 keys come into its registers, are weighed
// there and are what values are multiplied by. Lane 4g + t of warp w has rows
// 16w + g and 16w + g + 8, and of them keys, or columns, 8j + 2t and 8j + 2t
// + 1.
#include "kernels/cuda/attention_ops.h"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/sequence_items.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace shoal::cuda {
namespace {

constexpr int kRowsOfGroup = 64;
constexpr int kRows = 2 * kRowsOfGroup;
constexpr int kThreads = 2 * kWarpsOfGroup * kWarpSize;
constexpr int kStepKeys = TileShape::kStepKeys;

struct PrefillArgs {
  const float* q;  // [num_tokens, num_heads, ..]
  float* out;      // like q
  int32_t num_heads;
  // Heads at work: [first_head, first_head + num_kv_heads · group).
  int32_t first_head, num_kv_heads, group;
  const uint16_t* keys;  // [slots, num_kv_heads, ..]
  const uint16_t* values;
  SequenceTiles tiles;
  const int32_t* context_lens;
  // Where sequences' keys lie: in blocks, or, without a table, one sequence
  // behind the other, slots_of_seq apart.
  const int32_t* block_tables;
  int32_t max_blocks, block_size;
  int64_t slots_of_seq;
  float scale;
};

// The running softmax of a lane's two rows, of the open chunk and in total.
struct LaneSoftmax {
  float max[2], sum[2], total_max[2], total_sum[2];

  __device__ __forceinline__ void Begin() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      total_max[i] = kMinusInfinity;
      total_sum[i] = 0;
    }
    OpenChunk();
  }
  __device__ __forceinline__ void OpenChunk() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      max[i] = kMinusInfinity;
      sum[i] = 0;
    }
  }
};

template <int kKeyDim, int kValueDim>
class PrefillTile {
 public:
  static constexpr int kQueryBytes = kRows * kKeyDim * 2;
  static constexpr int kKeyBytes = kStepKeys * kKeyDim * 2;
  static constexpr int kStepBytes = kKeyBytes + kStepKeys * kValueDim * 2;
  static constexpr size_t kSharedBytes =
      kQueryBytes + 2 * kStepBytes + kChunkKeys * sizeof(int64_t);

  __device__ __forceinline__ PrefillTile(const PrefillArgs& args,
                                         uint8_t* shared)
      : a_(args),
        queries_(shared),
        steps_(shared + kQueryBytes),
        places_(reinterpret_cast<int64_t*>(steps_ + 2 * kStepBytes)),
        thread_(static_cast<int>(threadIdx.x)),
        lane_(thread_ % kWarpSize),
        warp_(thread_ / kWarpSize),
        first_row_(16 * warp_ + lane_ / 4) {}

  // limit[i]: keys that row first_row() + 8i sees; most_keys: that any row of
  // the block sees. query(row): the row's query, nullptr where there is none.
  template <typename Query, typename Place>
  __device__ __forceinline__ void Run(const Query& query, const Place& place,
                                      const int32_t (&limit)[2],
                                      int32_t most_keys) {
    SetQueries(query);
    softmax_.Begin();
#pragma unroll
    for (int i = 0; i < kValueDim / 2; ++i) total_[i] = 0;
    for (int32_t begin = 0; begin < most_keys; begin += kChunkKeys) {
      const int32_t left = most_keys - begin;
      AttendTo(begin, left < kChunkKeys ? left : kChunkKeys, limit, place);
      CloseChunk();
    }
    WaitForProducts<0>();
  }
  __device__ __forceinline__ int first_row() const { return first_row_; }

  // Row first_row() + 8i as it comes out, to `out`.
  __device__ __forceinline__ void Write(int i, float* out) const {
    const float sum = softmax_.total_sum[i];
    const float divisor = sum == 0 ? 1.0f : sum;
#pragma unroll
    for (int n = 0; n < kValueDim / 8; ++n) {
      *reinterpret_cast<float2*>(out + 8 * n + lane_ % 4 * 2) = {
          total_[4 * n + 2 * i] / divisor, total_[4 * n + 2 * i + 1] / divisor};
    }
  }

 private:
  // All threads; the queries of the tile before have been read.
  template <typename Query>
  __device__ __forceinline__ void SetQueries(const Query& query) {
    constexpr int kBlocks = kKeyDim / 8;
    for (int row = warp_; row < kRows; row += kTileWarps) {
      const float* from = query(row);
      for (int block = lane_; block < kBlocks; block += kWarpSize) {
        float4 x = {0, 0, 0, 0};
        float4 y = {0, 0, 0, 0};
        if (from != nullptr) {
          x = LoadQuery4(from, 8 * block, kKeyDim);
          y = LoadQuery4(from, 8 * block + 4, kKeyDim);
        }
        *reinterpret_cast<uint4*>(queries_ + BlockAt(row, block, kBlocks)) = {
            PackBF16(x.x, x.y), PackBF16(x.z, x.w), PackBF16(y.x, y.y),
            PackBF16(y.z, y.w)};
      }
    }
  }

  // Has keys [first, first + kStepKeys) of the chunk copied, and their values;
  // zeros for those from `count` on: what lies in unwritten cache may be NaN.
  // A warp takes eight of them, its lanes four neighbouring blocks at a time:
  // whole sectors there, all banks here.
  __device__ __forceinline__ void Fetch(int32_t first, int32_t count,
                                        int buffer) {
    static_assert(kTileWarps * 8 == kStepKeys);
    const int row = 8 * warp_ + lane_ % 8;
    const bool there = first + row < count;
    const int64_t place = there ? places_[first + row] : 0;
    uint8_t* to = steps_ + buffer * kStepBytes;
    FetchRow<kKeyDim / 8>(a_.keys + place * kKeyDim, row, there, to);
    FetchRow<kValueDim / 8>(a_.values + place * kValueDim, row, there,
                            to + kKeyBytes);
    CommitCopies();
  }
  template <int kBlocks>
  __device__ __forceinline__ void FetchRow(const uint16_t* from, int row,
                                           bool there, uint8_t* to) {
    const int block = lane_ / 8;
    from += 8 * block;
    to += BlockAt(row, block, kBlocks);
#pragma unroll
    for (int i = 0; i < kBlocks; i += 4) {
      CopyAsync16(to + i * kBlockBytes, from + 8 * i, !there);
    }
  }

  // Keys [begin, begin + count) of one chunk.
  template <typename Place>
  __device__ __forceinline__ void AttendTo(int32_t begin, int32_t count,
                                           const int32_t (&limit)[2],
                                           const Place& place) {
    for (int32_t i = thread_; i < count; i += kThreads) {
      places_[i] = place(begin + i);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kValueDim / 2; ++i) sums_[i] = 0;
    int buffer = 0;
    Fetch(0, count, buffer);
    for (int32_t first = 0; first < count; first += kStepKeys) {
      if (first + kStepKeys < count) {
        Fetch(first + kStepKeys, count, 1 - buffer);
        WaitForCopies<1>();
      } else {
        WaitForCopies<0>();
      }
      PublishToProducts();
      __syncthreads();
      Step(steps_ + buffer * kStepBytes, begin + first, limit);
      __syncthreads();
      buffer = 1 - buffer;
    }
  }

  __device__ __forceinline__ void Step(const uint8_t* keys, int32_t first,
                                       const int32_t (&limit)[2]) {
    // Scores: two sums a dot, as TensorTile has them for rows this short.
    constexpr uint32_t kRowBytes = kKeyDim / 8 * kBlockBytes;  // of eight
    SharedTile query = {
        queries_ + warp_ / kWarpsOfGroup * (kRowsOfGroup / 8) * kRowBytes,
        kBlockBytes, kRowBytes};
    SharedTile key = {keys, kBlockBytes, kRowBytes};
    float scores[kStepKeys / 2];
    float others[kStepKeys / 2];
    OpenProducts();
#pragma unroll
    for (int d = 0; d < kKeyDim; d += 2 * kTileDepth) {
      MultiplyAsync(query, key, d != 0, scores);
      query.data += 2 * kBlockBytes;
      key.data += 2 * kBlockBytes;
      MultiplyAsync(query, key, d != 0, others);
      query.data += 2 * kBlockBytes;
      key.data += 2 * kBlockBytes;
    }
    CommitProducts();
    WaitForProducts<0>();
    PinRegisters(scores);
    PinRegisters(others);
#pragma unroll
    for (int i = 0; i < kStepKeys / 2; ++i) scores[i] += others[i];

    Weigh(first, limit, scores);
    uint32_t weights[kStepKeys / kTileDepth][4];
#pragma unroll
    for (int k = 0; k < kStepKeys / kTileDepth; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights[k][i] =
            PackBF16(scores[8 * k + 2 * i], scores[8 * k + 2 * i + 1]);
      }
      PinRegisters(weights[k]);
    }
    PinRegisters(sums_);
    OpenProducts();
    constexpr uint32_t kValueBytes = kValueDim / 8 * kBlockBytes;  // of eight
    SharedTile value = {keys + kKeyBytes, kValueBytes, kBlockBytes};
#pragma unroll
    for (int k = 0; k < kStepKeys / kTileDepth; ++k) {
      MultiplyAsync<kValueDim, true>(weights[k], value, true, sums_);
      value.data += 2 * kValueBytes;
    }
    CommitProducts();
    WaitForProducts<0>();
    PinRegisters(sums_);
  }

  // Scores become weights, and sums so far what they are beside the new
  // maximum.
  __device__ __forceinline__ void Weigh(int32_t first,
                                        const int32_t (&limit)[2],
                                        float (&scores)[kStepKeys / 2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t seen = limit[half] - first - lane_ % 4 * 2;
      float top = kMinusInfinity;
#pragma unroll
      for (int j = 0; j < kStepKeys / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[4 * j + 2 * half + i];
          score = 8 * j + i < seen ? score * a_.scale : kMinusInfinity;
          // A score that is NaN is seen: it must show in the result.
          top = fmaxf(top, score);
        }
      }
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      top = fmaxf(softmax_.max[half], top);
      const float shrink = SoftmaxFactor(softmax_.max[half], top);
      softmax_.max[half] = top;
#pragma unroll
      for (int j = 0; j < kStepKeys / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[4 * j + 2 * half + i];
          score = score == kMinusInfinity ? 0.0f : expf(score - top);
        }
      }
      // The tree of WarpSum(), whose lane has keys `lane` and `lane` + 32.
      float parts[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const auto weight = [&](int j) { return scores[4 * j + 2 * half + i]; };
        const auto of_lanes = [&](int j) { return weight(j) + weight(j + 4); };
        float part = (of_lanes(0) + of_lanes(2)) + (of_lanes(1) + of_lanes(3));
        part += __shfl_xor_sync(kAllLanes, part, 2);
        part += __shfl_xor_sync(kAllLanes, part, 1);
        parts[i] = part;
      }
      softmax_.sum[half] =
          fmaf(softmax_.sum[half], shrink, parts[0] + parts[1]);
#pragma unroll
      for (int n = 0; n < kValueDim / 8; ++n) {
        sums_[4 * n + 2 * half] *= shrink;
        sums_[4 * n + 2 * half + 1] *= shrink;
      }
    }
  }

  __device__ __forceinline__ void CloseChunk() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& total_max = softmax_.total_max[half];
      float& total_sum = softmax_.total_sum[half];
      const float top = fmaxf(total_max, softmax_.max[half]);
      const float old_factor = SoftmaxFactor(total_max, top);
      const float new_factor = SoftmaxFactor(softmax_.max[half], top);
      total_sum = fmaf(total_sum, old_factor, softmax_.sum[half] * new_factor);
      total_max = top;
#pragma unroll
      for (int n = 0; n < kValueDim / 8; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          total_[4 * n + i] = fmaf(total_[4 * n + i], old_factor,
                                   sums_[4 * n + i] * new_factor);
        }
      }
    }
    softmax_.OpenChunk();
  }

  const PrefillArgs& a_;
  uint8_t* const queries_;  // [kRows, kKeyDim], in blocks
  uint8_t* const steps_;    // two of keys and values, in blocks
  int64_t* const places_;   // [kChunkKeys], in rows
  const int thread_, lane_, warp_, first_row_;
  LaneSoftmax softmax_;
  float sums_[kValueDim / 2], total_[kValueDim / 2];  // of values
};

template <int kKeyDim, int kValueDim>
__global__ __launch_bounds__(kThreads, 1) void PrefillAttentionKernel(
    const __grid_constant__ PrefillArgs a) {
#if SHOAL_HAS_WARPGROUPS
  PrefillTile<kKeyDim, kValueDim> tile(a, DynamicShared());
  for (int64_t item = blockIdx.x;; item += gridDim.x) {
    SequenceTile place = a.tiles.Find(item / a.num_kv_heads);
    if (place.seq < 0) return;
    // Those with the most keys come first.
    place.tile = a.tiles.TilesOf(place.q_len) - 1 - place.tile;
    const auto kv_head = static_cast<int32_t>(item % a.num_kv_heads);
    const int32_t first = place.tile * kRows;
    const int32_t left = place.q_len * a.group - first;
    const int32_t num_rows = left < kRows ? left : kRows;
    // Row r: a token and a head of the kv head's group.
    const auto row_at = [&](int32_t r) {
      const int64_t token = place.first_token + (first + r) / a.group;
      return token * a.num_heads + a.first_head + kv_head * a.group +
             (first + r) % a.group;
    };
    const int32_t old_keys = a.context_lens[place.seq] - place.q_len;
    const auto keys_of = [&](int32_t r) {
      return r < num_rows ? old_keys + (first + r) / a.group + 1 : 0;
    };
    const int32_t* table = a.block_tables + int64_t{place.seq} * a.max_blocks;
    const int32_t limit[2] = {keys_of(tile.first_row()),
                              keys_of(tile.first_row() + 8)};
    tile.Run(
        [&](int32_t r) -> const float* {
          return r < num_rows ? a.q + row_at(r) * kKeyDim : nullptr;
        },
        [&](int32_t j) {
          const int64_t slot =
              a.block_tables == nullptr
                  ? place.seq * a.slots_of_seq + j
                  : int64_t{table[j / a.block_size]} * a.block_size +
                        j % a.block_size;
          return slot * a.num_kv_heads + kv_head;
        },
        limit, keys_of(num_rows - 1));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int32_t r = tile.first_row() + 8 * i;
      if (r < num_rows) tile.Write(i, a.out + row_at(r) * kValueDim);
    }
    __syncthreads();  // queries are written anew
  }
#endif
}

template <int kKeyDim, int kValueDim>
void Launch(LaunchContext& context, const PrefillArgs& args) {
  context.Launch(PrefillAttentionKernel<kKeyDim, kValueDim>,
                 dim3(static_cast<unsigned>(context.num_multiprocessors())),
                 kThreads, PrefillTile<kKeyDim, kValueDim>::kSharedBytes, args);
}

}  // namespace

bool FitsPrefillAttention(const PagedAttentionParams& p) {
  const auto aligned = [](const void* data) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0;
  };
  return p.k_cache.dtype == DType::kBF16 && p.v_cache.dtype == DType::kBF16 &&
         p.k_cache.data != p.v_cache.data && aligned(p.k_cache.data) &&
         aligned(p.v_cache.data) && aligned(p.out) && p.v_dim == p.head_dim &&
         (p.v_dim == 64 || p.v_dim == 128);
}

void PrefillAttention(LaunchContext& context, const PagedAttentionParams& p,
                      int32_t least_rows) {
  PrefillArgs a = {};
  a.q = p.q;
  a.out = p.out;
  a.num_heads = p.num_heads;
  a.num_kv_heads = p.num_kv_heads;
  a.group = p.num_heads / p.num_kv_heads;
  a.keys = static_cast<const uint16_t*>(p.k_cache.data);
  a.values = static_cast<const uint16_t*>(p.v_cache.data);
  a.tiles = {p.cu_seqlens_q, p.num_seqs, a.group, kRows, least_rows};
  a.context_lens = p.context_lens;
  a.block_tables = p.block_tables;
  a.max_blocks = p.max_blocks;
  a.block_size = p.block_size;
  a.scale = p.scale;
  if (p.v_dim == 64) {
    Launch<64, 64>(context, a);
  } else {
    Launch<128, 128>(context, a);
  }
}

void ExpandedAttention(LaunchContext& context, const LatentAttentionParams& p,
                       const ExpandedRows& rows, int32_t num_heads) {
  PrefillArgs a = {};
  a.q = p.q;
  a.out = p.out;
  a.num_heads = num_heads;
  a.first_head = rows.first_head;
  a.num_kv_heads = rows.num_heads;
  a.group = 1;
  a.keys = rows.keys;
  a.values = rows.values;
  a.tiles = {p.cu_seqlens_q, p.num_seqs, 1, kRows};
  a.context_lens = p.context_lens;
  a.slots_of_seq = rows.slots_of_seq;
  a.scale = p.scale;
  Launch<ExpandedRows::kKeyDim, ExpandedRows::kValueDim>(context, a);
}

}  // namespace shoal::cuda
