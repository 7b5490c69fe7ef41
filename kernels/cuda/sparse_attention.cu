// Attention over rows named one by one; see kernels/sparse_attention.h. A
// thread block takes some heads of one token through all its keys.
#include "kernels/check.h"
#include "kernels/cuda/attention_ops.h"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/tensor_tile.cuh"

namespace shoal::cuda {
namespace {

constexpr int kMaxSources = 4;

struct SourceArgs {
  const void* rows;
  const int32_t* slots;
  const int32_t* counts;
  int32_t max_keys;
  DType dtype;
  bool aligned;
};

struct SparseArgs {
  const float* q;
  const float* sinks;
  float* out;
  int32_t num_heads;
  float scale;
  int32_t num_sources;
  TileShape shape;
  SourceArgs sources[kMaxSources];
};

// Grid: tokens, tiles of heads.
template <typename Tile>
__global__
__launch_bounds__(kTileThreads, Tile::kBlocks) void SparseAttentionKernel(
    const __grid_constant__ SparseArgs a) {
  Tile tile(a.shape, reinterpret_cast<float*>(DynamicShared()));
  const int64_t token = blockIdx.x;
  const int32_t first_head = static_cast<int32_t>(blockIdx.y) * a.shape.rows();
  const int32_t left = a.num_heads - first_head;
  const int32_t num_rows = left < a.shape.rows() ? left : a.shape.rows();
  const int32_t width = a.shape.key_dim;
  const float* q = a.q + (token * a.num_heads + first_head) * width;
  for (int32_t r = threadIdx.x / kWarpSize; r < num_rows; r += kTileWarps) {
    tile.SetQuery(r, q + r * width);
  }
  int32_t most = 0;
  for (int32_t s = 0; s < a.num_sources; ++s) {
    const int32_t count = a.sources[s].counts[token];
    most = count > most ? count : most;
  }
  if (static_cast<int32_t>(threadIdx.x) < num_rows) {
    tile.limit(static_cast<int32_t>(threadIdx.x)) = most;
  }
  tile.Begin(num_rows);
  for (int32_t s = 0; s < a.num_sources; ++s) {
    const SourceArgs& source = a.sources[s];
    const int32_t* slots = source.slots + token * source.max_keys;
    const int32_t count = source.counts[token];
    tile.SetSource(source.dtype, source.aligned);
    for (int32_t begin = 0; begin < count; begin += kChunkKeys) {
      const int32_t end =
          begin + kChunkKeys < count ? begin + kChunkKeys : count;
      tile.AttendTo(source.rows, source.rows, begin, end, a.scale,
                    [&](int32_t j) { return int64_t{slots[j]}; });
      tile.CloseChunk();
    }
  }
  float* out = a.out + (token * a.num_heads + first_head) * a.shape.value_dim;
  tile.Finish(
      [&](int32_t r) {
        return a.sinks != nullptr ? a.sinks[first_head + r] : kMinusInfinity;
      },
      [&](int32_t r) { return out + r * a.shape.value_dim; });
}

}  // namespace

void SparseAttention(LaunchContext& context, const SparseAttentionParams& p) {
  if (p.num_tokens == 0) return;
  SHOAL_CHECK(p.v_dim <= kMaxValueDim && p.sources.size() <= kMaxSources);
  SparseArgs a = {};
  a.q = p.q;
  a.sinks = p.sinks;
  a.out = p.out;
  a.num_heads = p.num_heads;
  a.scale = p.scale;
  a.num_sources = static_cast<int32_t>(p.sources.size());
  a.shape.key_dim = p.head_dim;
  a.shape.value_dim = p.v_dim;
  a.shape.shared_values = true;
  for (int32_t s = 0; s < a.num_sources; ++s) {
    const KeySource& source = p.sources[s];
    const DType dtype = source.rows.dtype;
    const bool aligned =
        p.head_dim % 4 == 0 && reinterpret_cast<uintptr_t>(source.rows.data) %
                                       (4 * ElementBytes(dtype)) ==
                                   0;
    a.sources[s] = {source.rows.data, source.slots, source.counts,
                    source.max_keys,  dtype,        aligned};
  }
  a.shape.dtype = a.num_sources > 0 ? a.sources[0].dtype : DType::kF32;
  a.shape.tensor = true;
  for (int32_t s = 0; s < a.num_sources; ++s) {
    a.shape.tensor = a.shape.tensor && a.sources[s].dtype == a.shape.dtype &&
                     FitsTensorTile(a.shape, {a.sources[s].rows});
  }
  const dim3 grid(static_cast<unsigned>(p.num_tokens),
                  static_cast<unsigned>((p.num_heads + a.shape.rows() - 1) /
                                        a.shape.rows()));
  const size_t shared = a.shape.shared_floats() * sizeof(float);
  WithTile(a.shape, [&]<typename Tile>() {
    context.Launch(SparseAttentionKernel<Tile>, grid, kTileThreads, shared, a);
  });
}

}  // namespace shoal::cuda
