// Ops on rows: norms, rotation, gating, copies. Memory-bound, a warp or a
// thread block a row.
#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/row_ops.h"

namespace shoal::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kHeadWarps = 4;
// Of a thread block that has a row: few values a thread, so that their loads
// are one wait.
unsigned RowThreads(int64_t width) {
  return width <= 128 ? kWarpSize : width <= 1024 ? 128 : 512;
}

unsigned Blocks(int64_t items, int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

__global__ void RmsNormKernel(RmsNormParams p) {
  __shared__ float partial[kWarpSize];
  const float* in = p.in + blockIdx.x * p.in_stride;
  float* out = p.out + blockIdx.x * p.out_stride;
  float sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) {
    sum = fmaf(in[i], in[i], sum);
  }
  sum = BlockSum(sum, partial);
  const float factor = 1.0f / sqrtf(sum / static_cast<float>(p.width) + p.eps);
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) {
    const float weight = p.weight != nullptr ? p.weight[i] : 1.0f;
    out[i] = in[i] * factor * weight;
  }
}

__global__ void LayerNormKernel(LayerNormParams p) {
  __shared__ float partial[kWarpSize];
  const float* in = p.in + blockIdx.x * p.width;
  float* out = p.out + blockIdx.x * p.width;
  float sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) sum += in[i];
  const float mean = BlockSum(sum, partial) / static_cast<float>(p.width);
  float squares = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) {
    const float difference = in[i] - mean;
    squares = fmaf(difference, difference, squares);
  }
  squares = BlockSum(squares, partial);
  const float factor =
      1.0f / sqrtf(squares / static_cast<float>(p.width) + p.eps);
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) {
    out[i] = (in[i] - mean) * factor * p.weight[i] + p.bias[i];
  }
}

// Pair i of `half` of them: its values' places, and the two of them rotated.
__device__ __forceinline__ int64_t FirstOfPair(RopeLayout layout, int64_t i) {
  return layout == RopeLayout::kHalfSplit ? i : 2 * i;
}
__device__ __forceinline__ int64_t SecondOfPair(RopeLayout layout, int64_t i,
                                                int64_t half) {
  return layout == RopeLayout::kHalfSplit ? i + half : 2 * i + 1;
}
__device__ __forceinline__ float2 Rotated(float a, float b, float cos,
                                          float sin) {
  return {a * cos - b * sin, b * cos + a * sin};
}

// A thread a pair of one head of one token.
__global__ void RopeKernel(RopeParams p) {
  const int64_t half = p.rotary_dim / 2;
  const int64_t item = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (item >= p.num_tokens * p.num_heads * half) return;
  const int64_t i = item % half;
  const int64_t head = item / half % p.num_heads;
  const int64_t token = item / half / p.num_heads;
  float* x = p.x + token * p.token_stride + head * p.head_dim + p.offset;
  float* first = x + FirstOfPair(p.layout, i);
  float* second = x + SecondOfPair(p.layout, i, half);
  const float sin =
      p.inverse ? -p.sin[token * half + i] : p.sin[token * half + i];
  const float2 rotated = Rotated(*first, *second, p.cos[token * half + i], sin);
  *first = rotated.x;
  *second = rotated.y;
}

// `num_rows`, if given, lies on the device: rows beyond it are left alone.
__global__ void SiluMulKernel(SiluMulParams p, const int32_t* num_rows) {
  const int64_t n = (num_rows != nullptr ? *num_rows : p.num_tokens) * p.width;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n;
       i += stride) {
    p.out[i] = Gated(p.gate[i], p.up[i], p.limit);
  }
}

__global__ void ZeroKernel(float* out, int64_t n) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n;
       i += stride) {
    out[i] = 0;
  }
}

__global__ void AddKernel(const float* in, int64_t n, float* out) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n;
       i += stride) {
    out[i] += in[i];
  }
}

__device__ __forceinline__ void StoreElement(void* data, DType dtype, int64_t i,
                                             float x) {
  if (dtype == DType::kF32) {
    static_cast<float*>(data)[i] = x;
  } else {
    static_cast<uint16_t*>(data)[i] =
        dtype == DType::kBF16 ? NarrowBF16(x) : NarrowF16(x);
  }
}

struct CacheWriteArgs {
  const float* rows;
  const int64_t* slots;
  int64_t width, stride;
  void* cache;
  DType dtype;
};

// A thread block a row.
__global__ void CacheWriteKernel(CacheWriteArgs p) {
  const int64_t slot = p.slots[blockIdx.x];
  if (slot < 0) return;
  const float* row = p.rows + blockIdx.x * p.stride;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) {
    StoreElement(p.cache, p.dtype, slot * p.width + i, row[i]);
  }
}

struct HeadsWriteArgs {
  float* q;
  const float* k;
  const float* v;
  const float* q_norm;
  const float* k_norm;
  const float* cos;
  const float* sin;
  const int64_t* slots;
  void* k_cache;
  void* v_cache;
  DType k_dtype, v_dtype;
  RopeLayout layout;
  int64_t num_tokens, num_heads, num_kv_heads, head_dim;
  float eps;
};

// A warp a head of a token: those of q, then of k, then of v.
__global__ __launch_bounds__(kHeadWarps* kWarpSize) void HeadsWriteKernel(
    HeadsWriteArgs p) {
  const int lane = threadIdx.x % kWarpSize;
  const int64_t heads = p.num_heads + 2 * p.num_kv_heads;
  const int64_t item =
      int64_t{blockIdx.x} * kHeadWarps + threadIdx.x / kWarpSize;
  if (item >= p.num_tokens * heads) return;
  const int64_t token = item / heads;
  const int64_t head = item % heads;
  const bool of_q = head < p.num_heads;
  const bool of_v = head >= p.num_heads + p.num_kv_heads;
  const int64_t slot = of_q ? 0 : p.slots[token];
  if (slot < 0) return;
  const int64_t kv_head = (head - p.num_heads) % p.num_kv_heads;
  const int64_t row = (token * p.num_kv_heads + kv_head) * p.head_dim;
  const int64_t to = (slot * p.num_kv_heads + kv_head) * p.head_dim;
  if (of_v) {
    for (int64_t i = lane; i < p.head_dim; i += kWarpSize) {
      StoreElement(p.v_cache, p.v_dtype, to + i, p.v[row + i]);
    }
    return;
  }
  float* q = p.q + (token * p.num_heads + head) * p.head_dim;
  const float* x = of_q ? q : p.k + row;
  const float* norm = of_q ? p.q_norm : p.k_norm;
  float factor = 1;
  if (norm != nullptr) {
    float sum = 0;
    for (int64_t i = lane; i < p.head_dim; i += kWarpSize) {
      sum = fmaf(x[i], x[i], sum);
    }
    factor =
        1.0f / sqrtf(WarpSum(sum) / static_cast<float>(p.head_dim) + p.eps);
  }
  const int64_t half = p.head_dim / 2;
  for (int64_t i = lane; i < half; i += kWarpSize) {
    const int64_t first = FirstOfPair(p.layout, i);
    const int64_t second = SecondOfPair(p.layout, i, half);
    float a = x[first];
    float b = x[second];
    if (norm != nullptr) {
      a = a * factor * norm[first];
      b = b * factor * norm[second];
    }
    const float2 rotated =
        Rotated(a, b, p.cos[token * half + i], p.sin[token * half + i]);
    if (of_q) {
      q[first] = rotated.x;
      q[second] = rotated.y;
    } else {
      StoreElement(p.k_cache, p.k_dtype, to + first, rotated.x);
      StoreElement(p.k_cache, p.k_dtype, to + second, rotated.y);
    }
  }
}

struct LatentWriteArgs {
  float* q;
  float* q_rope;
  int64_t q_rope_stride;
  float* latent;
  const float* norm;
  const float* cos;
  const float* sin;
  const int64_t* slots;
  void* cache;
  DType dtype;
  RopeLayout layout;
  int64_t rank, rope_dim, num_heads, q_dim;
  float eps;
};

// A thread block a token; the pairs of its latent row come behind its heads'.
__global__ void LatentWriteKernel(LatentWriteArgs p) {
  __shared__ float partial[kWarpSize];
  const int64_t token = blockIdx.x;
  const int64_t width = p.rank + p.rope_dim;
  float* latent = p.latent + token * width;
  const int64_t slot = p.slots[token];
  float sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < p.rank; i += blockDim.x) {
    sum = fmaf(latent[i], latent[i], sum);
  }
  sum = BlockSum(sum, partial);
  const float factor = 1.0f / sqrtf(sum / static_cast<float>(p.rank) + p.eps);
#pragma unroll 4
  for (int64_t i = threadIdx.x; slot >= 0 && i < p.rank; i += blockDim.x) {
    StoreElement(p.cache, p.dtype, slot * width + i,
                 latent[i] * factor * p.norm[i]);
  }
  const int64_t half = p.rope_dim / 2;
  for (int64_t pair = threadIdx.x; pair < (p.num_heads + 1) * half;
       pair += blockDim.x) {
    const int64_t head = pair / half;
    const int64_t i = pair % half;
    const bool of_latent = head == p.num_heads;
    float* x = of_latent ? latent + p.rank
                         : p.q + (token * p.num_heads + head + 1) * p.q_dim -
                               p.rope_dim;
    const int64_t first = FirstOfPair(p.layout, i);
    const int64_t second = SecondOfPair(p.layout, i, half);
    const float2 rotated = Rotated(x[first], x[second], p.cos[token * half + i],
                                   p.sin[token * half + i]);
    if (!of_latent) {
      x[first] = rotated.x;
      x[second] = rotated.y;
      if (p.q_rope != nullptr) {
        float* copy = p.q_rope + (token * p.num_heads + head) * p.q_rope_stride;
        copy[first] = rotated.x;
        copy[second] = rotated.y;
      }
    } else if (slot >= 0) {
      const int64_t at = slot * width + p.rank;
      StoreElement(p.cache, p.dtype, at + first, rotated.x);
      StoreElement(p.cache, p.dtype, at + second, rotated.y);
    }
  }
}

// A thread block a row of `bytes`, in words of T.
template <typename T>
__global__ void CopyRowsKernel(const uint8_t* from, uint8_t* to,
                               const int32_t* from_rows, const int32_t* to_rows,
                               int64_t bytes) {
  const auto* source =
      reinterpret_cast<const T*>(from + from_rows[blockIdx.x] * bytes);
  auto* target = reinterpret_cast<T*>(to + to_rows[blockIdx.x] * bytes);
  const int64_t words = bytes / static_cast<int64_t>(sizeof(T));
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < words; i += blockDim.x) {
    target[i] = source[i];
  }
}

// A thread a value.
__global__ void CopyTailsKernel(HeadTails p) {
  const int64_t item = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (item >= p.num_tokens * p.num_heads * p.tail) return;
  const int64_t i = item % p.tail;
  const int64_t head = item / p.tail % p.num_heads;
  const int64_t token = item / p.tail / p.num_heads;
  p.out[token * p.out_token_stride + head * p.out_head_stride + i] =
      p.in[token * p.in_token_stride + head * p.in_head_stride + i];
}

// Grid-stride over `n` values.
unsigned StrideBlocks(const LaunchContext& context, int64_t n) {
  return static_cast<unsigned>(std::min<int64_t>(
      Blocks(n, kThreads), 16 * context.num_multiprocessors()));
}

}  // namespace

void CopyTails(LaunchContext& context, const HeadTails& tails) {
  const int64_t n = tails.num_tokens * tails.num_heads * tails.tail;
  if (n == 0) return;
  context.Launch(CopyTailsKernel, dim3(Blocks(n, kThreads)), kThreads, 0,
                 tails);
}

void RmsNorm(LaunchContext& context, const RmsNormParams& p) {
  if (p.num_rows == 0) return;
  context.Launch(RmsNormKernel, dim3(static_cast<unsigned>(p.num_rows)),
                 RowThreads(p.width), 0, p);
}

void LayerNorm(LaunchContext& context, const LayerNormParams& p) {
  if (p.num_rows == 0) return;
  context.Launch(LayerNormKernel, dim3(static_cast<unsigned>(p.num_rows)),
                 RowThreads(p.width), 0, p);
}

void Rope(LaunchContext& context, const RopeParams& p) {
  const int64_t pairs = p.num_tokens * p.num_heads * (p.rotary_dim / 2);
  if (pairs == 0) return;
  context.Launch(RopeKernel, dim3(Blocks(pairs, kThreads)), kThreads, 0, p);
}

void SiluMul(LaunchContext& context, const SiluMulParams& p,
             const int32_t* num_rows) {
  const int64_t n = p.num_tokens * p.width;
  if (n == 0) return;
  context.Launch(SiluMulKernel, dim3(StrideBlocks(context, n)), kThreads, 0, p,
                 num_rows);
}

void Zero(LaunchContext& context, float* out, int64_t n) {
  if (n == 0) return;
  context.Launch(ZeroKernel, dim3(StrideBlocks(context, n)), kThreads, 0, out,
                 n);
}

void Add(LaunchContext& context, const float* in, int64_t n, float* out) {
  if (n == 0) return;
  context.Launch(AddKernel, dim3(StrideBlocks(context, n)), kThreads, 0, in, n,
                 out);
}

void CacheWrite(LaunchContext& context, const CacheWriteParams& p) {
  SHOAL_CHECK(p.order == CacheOrder::kRows);
  if (p.num_tokens == 0) return;
  const CacheWriteArgs args = {p.rows,       p.slot_mapping, p.row_width,
                               p.row_stride, p.cache.data,   p.cache.dtype};
  context.Launch(CacheWriteKernel, dim3(static_cast<unsigned>(p.num_tokens)),
                 RowThreads(p.row_width), 0, args);
}

void HeadsWrite(LaunchContext& context, const HeadsWriteParams& p) {
  SHOAL_CHECK(p.k_order == CacheOrder::kRows && p.v_order == CacheOrder::kRows);
  if (p.num_tokens == 0) return;
  const HeadsWriteArgs args = {p.q,
                               p.k,
                               p.v,
                               p.q_norm,
                               p.k_norm,
                               p.cos,
                               p.sin,
                               p.slot_mapping,
                               p.k_cache.data,
                               p.v_cache.data,
                               p.k_cache.dtype,
                               p.v_cache.dtype,
                               p.layout,
                               p.num_tokens,
                               p.num_heads,
                               p.num_kv_heads,
                               p.head_dim,
                               p.eps};
  const int64_t heads = p.num_tokens * (p.num_heads + 2 * p.num_kv_heads);
  context.Launch(HeadsWriteKernel, dim3(Blocks(heads, kHeadWarps)),
                 kHeadWarps * kWarpSize, 0, args);
}

void LatentWrite(LaunchContext& context, const LatentWriteParams& p) {
  if (p.num_tokens == 0) return;
  const int64_t width = p.cache.dim(1);
  const LatentWriteArgs args = {
      p.q,          p.q_rope,      p.q_rope_stride, p.latent,
      p.norm,       p.cos,         p.sin,           p.slot_mapping,
      p.cache.data, p.cache.dtype, p.layout,        width - p.rope_dim,
      p.rope_dim,   p.num_heads,   p.q_dim,         p.eps};
  context.Launch(LatentWriteKernel, dim3(static_cast<unsigned>(p.num_tokens)),
                 RowThreads(width), 0, args);
}

void CopyRows(LaunchContext& context, const CopyRowsParams& p) {
  if (p.num_rows == 0) return;
  const int64_t width = p.from.dim(p.from.rank - 1);
  const int64_t bytes = DTypeBytes(p.from.dtype, width);
  const auto* from = static_cast<const uint8_t*>(p.from.data);
  auto* to = static_cast<uint8_t*>(p.to.data);
  const dim3 grid(static_cast<unsigned>(p.num_rows));
  const auto places = reinterpret_cast<uintptr_t>(from) |
                      reinterpret_cast<uintptr_t>(to) |
                      static_cast<uintptr_t>(bytes);
  const auto launch = [&](auto kernel) {
    context.Launch(kernel, grid, RowThreads(width), 0, from, to, p.from_rows,
                   p.to_rows, bytes);
  };
  if (places % sizeof(uint4) == 0) {
    launch(CopyRowsKernel<uint4>);
  } else if (places % sizeof(uint16_t) == 0) {
    launch(CopyRowsKernel<uint16_t>);
  } else {
    launch(CopyRowsKernel<uint8_t>);
  }
}

}  // namespace shoal::cuda
