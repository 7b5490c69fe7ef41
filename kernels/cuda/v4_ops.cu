// Compressed entries and hyper-connections: see kernels/compress.h and
// kernels/hyper_connection.h.
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/row_ops.h"

namespace shoal::cuda {
namespace {

constexpr unsigned kThreads = 128;

// The softmax that one channel has summed up so far.
struct RunningMean {
  float max = kMinusInfinity;
  float sum = 0;
  float weighted = 0;

  __device__ __forceinline__ void Load(const float* state, int64_t width) {
    max = state[0];
    sum = state[width];
    weighted = state[2 * width];
  }
  __device__ __forceinline__ void Store(float* state, int64_t width) const {
    state[0] = max;
    state[width] = sum;
    state[2 * width] = weighted;
  }
  __device__ __forceinline__ void Add(float value, float gate) {
    const float top = fmaxf(gate, max);
    const float shrink = expf(max - top);  // 0 at the first
    const float weight = expf(gate - top);
    sum = fmaf(sum, shrink, weight);
    weighted = fmaf(weighted, shrink, weight * value);
    max = top;
  }
};

// Grid: tiles of channels, sequences. A thread a channel: its tokens follow
// each other.
__global__ void CompressKernel(CompressParams p) {
  __shared__ int partial[kWarpSize];
  const int32_t begin = p.cu_seqlens_q[blockIdx.y];
  const int32_t end = p.cu_seqlens_q[blockIdx.y + 1];
  // Entries that earlier sequences close come first in `out`.
  int closed = 0;
  for (int32_t t = threadIdx.x; t < begin; t += blockDim.x) {
    closed += (p.positions[t] + 1) % p.ratio == 0 ? 1 : 0;
  }
  int64_t entry = BlockSum(closed, partial);
  const int64_t channel = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (channel >= p.width) return;

  const int64_t width = p.width;
  const int64_t channels = p.overlap ? 2 * width : width;
  float* state = p.state +
                 p.state_slots[blockIdx.y] * (p.overlap ? 6 : 3) * width +
                 channel;
  RunningMean open, next;
  open.Load(state, width);
  if (p.overlap) next.Load(state + 3 * width, width);
  for (int32_t t = begin; t < end; ++t) {
    const int32_t position = p.positions[t];
    if (position == 0) open = next = RunningMean();
    const int32_t j = position % p.ratio;
    const float* value = p.values + t * channels + channel;
    const float* gate = p.gates + t * channels + channel;
    const float* ape = p.ape + j * channels + channel;
    if (p.overlap) {
      next.Add(value[0], gate[0] + ape[0]);
      open.Add(value[width], gate[width] + ape[width]);
    } else {
      open.Add(value[0], gate[0] + ape[0]);
    }
    if (j + 1 < p.ratio) continue;
    p.out[entry * width + channel] = open.weighted / open.sum;
    ++entry;
    open = next;
    next = RunningMean();
  }
  open.Store(state, width);
  if (p.overlap) next.Store(state + 3 * width, width);
}

__device__ __forceinline__ float Sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

// Divides groups of m values, `step` apart within and `stride` apart between
// groups, by (their sum + eps).
__device__ void NormalizeGroups(float* c, int32_t m, int32_t stride,
                                int32_t step, float eps) {
  for (int32_t i = 0; i < m; ++i) {
    float sum = 0;
    for (int32_t j = 0; j < m; ++j) sum += c[i * stride + j * step];
    for (int32_t j = 0; j < m; ++j) c[i * stride + j * step] /= sum + eps;
  }
}

__device__ void Sinkhorn(const HyperMixParams& p, const float* u,
                         const float* base, float* c) {
  const int32_t m = p.m;
  for (int32_t i = 0; i < m; ++i) {
    float max = kMinusInfinity;
    float sum = 0;
    for (int32_t j = 0; j < m; ++j) {
      c[i * m + j] = u[i * m + j] * p.scale[2] + base[i * m + j];
      max = fmaxf(max, c[i * m + j]);
    }
    for (int32_t j = 0; j < m; ++j) {
      c[i * m + j] = expf(c[i * m + j] - max);
      sum += c[i * m + j];
    }
    for (int32_t j = 0; j < m; ++j) c[i * m + j] = c[i * m + j] / sum + p.eps;
  }
  NormalizeGroups(c, m, 1, m, p.eps);  // columns
  for (int32_t i = 1; i < p.sinkhorn_iters; ++i) {
    NormalizeGroups(c, m, m, 1, p.eps);
    NormalizeGroups(c, m, 1, m, p.eps);
  }
}

// A thread block a token; its first threads find the coefficients.
__global__ void HyperMixKernel(HyperMixParams p) {
  __shared__ float pre[kMaxStreams];
  __shared__ float comb[kMaxStreams * kMaxStreams];
  const int64_t t = blockIdx.x;
  const int32_t m = p.m;
  const float* u = p.mixing + t * (p.post == nullptr ? m : (2 + m) * m);
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  if (thread < m) {
    pre[thread] = Sigmoid(u[thread] * p.scale[0] + p.base[thread]) + p.eps;
    if (p.post != nullptr) {
      const int32_t at = m + thread;
      p.post[t * m + thread] = 2 * Sigmoid(u[at] * p.scale[1] + p.base[at]);
    }
  }
  if (p.post != nullptr && thread == static_cast<int32_t>(kWarpSize)) {
    Sinkhorn(p, u + 2 * m, p.base + 2 * m, comb);
    for (int32_t i = 0; i < m * m; ++i) p.comb[t * m * m + i] = comb[i];
  }
  __syncthreads();
  const float* streams = p.streams + t * m * p.hidden_size;
  for (int64_t i = thread; i < p.hidden_size; i += blockDim.x) {
    float sum = 0;
    for (int32_t j = 0; j < m; ++j) {
      sum = fmaf(pre[j], streams[j * p.hidden_size + i], sum);
    }
    p.out[t * p.hidden_size + i] = sum;
  }
}

// Grid: tokens, tiles of the row.
__global__ void HyperExpandKernel(HyperExpandParams p) {
  const int64_t t = blockIdx.x;
  const int64_t i = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (i >= p.hidden_size) return;
  const int32_t m = p.m;
  const float* post = p.post + t * m;
  const float* comb = p.comb + t * m * m;
  float* streams = p.streams + t * m * p.hidden_size + i;
  float old[kMaxStreams];
#pragma unroll
  for (int32_t j = 0; j < kMaxStreams; ++j) {
    old[j] = j < m ? streams[j * p.hidden_size] : 0;
  }
  const float y = p.y[t * p.hidden_size + i];
  for (int32_t k = 0; k < m; ++k) {
    float sum = post[k] * y;
#pragma unroll
    for (int32_t j = 0; j < kMaxStreams; ++j) {
      if (j < m) sum = fmaf(comb[j * m + k], old[j], sum);
    }
    streams[k * p.hidden_size] = sum;
  }
}

unsigned Tiles(int64_t n) {
  return static_cast<unsigned>((n + kThreads - 1) / kThreads);
}

}  // namespace

void Compress(LaunchContext& context, const CompressParams& p) {
  if (p.num_seqs == 0) return;
  context.Launch(CompressKernel,
                 dim3(Tiles(p.width), static_cast<unsigned>(p.num_seqs)),
                 kThreads, 0, p);
}

void HyperMix(LaunchContext& context, const HyperMixParams& p) {
  if (p.num_tokens == 0) return;
  context.Launch(HyperMixKernel, dim3(static_cast<unsigned>(p.num_tokens)),
                 kThreads, 0, p);
}

void HyperExpand(LaunchContext& context, const HyperExpandParams& p) {
  if (p.num_tokens == 0) return;
  context.Launch(
      HyperExpandKernel,
      dim3(static_cast<unsigned>(p.num_tokens), Tiles(p.hidden_size)), kThreads,
      0, p);
}

}  // namespace shoal::cuda
