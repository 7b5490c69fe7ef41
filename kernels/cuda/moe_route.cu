// The choice of experts; see kernels/moe.h.
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/moe.h"

namespace shoal::cuda {
namespace {

constexpr int kRouteWarps = kProductWarps;

__device__ void Score(const MoeRouteParams& p, const float* logits,
                      float* scores, int lane) {
  if (p.scoring == RouterScoring::kSoftmax) {
    float max = kMinusInfinity;
    for (int32_t e = lane; e < p.num_experts; e += kWarpSize) {
      max = fmaxf(max, logits[e]);
    }
    max = WarpMax(max);
    float sum = 0;
    for (int32_t e = lane; e < p.num_experts; e += kWarpSize) {
      scores[e] = expf(logits[e] - max);
      sum += scores[e];
    }
    sum = WarpSum(sum);
    for (int32_t e = lane; e < p.num_experts; e += kWarpSize) scores[e] /= sum;
    return;
  }
  for (int32_t e = lane; e < p.num_experts; e += kWarpSize) {
    const float z = logits[e];
    scores[e] = p.scoring == RouterScoring::kSigmoid
                    ? 1.0f / (1.0f + expf(-z))
                    : sqrtf(z > 20.0f ? z : log1pf(expf(z)));
  }
}

// Index of the largest value, the first of equals; -1 if none is above minus
// infinity. The same in every lane.
__device__ int32_t ArgMax(const float* values, int32_t n, int lane) {
  float best = kMinusInfinity;
  int32_t index = -1;
  for (int32_t i = lane; i < n; i += kWarpSize) {
    if (values[i] > best) {
      best = values[i];
      index = i;
    }
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, best, mask);
    const int32_t other_index = __shfl_xor_sync(kAllLanes, index, mask);
    const bool wins = other > best || (other == best && other_index >= 0 &&
                                       (index < 0 || other_index < index));
    if (wins) {
      best = other;
      index = other_index;
    }
  }
  return index;
}

__device__ float GroupValue(GroupScore kind, const float* choices, int32_t n) {
  float best = kMinusInfinity;
  float second = kMinusInfinity;
  for (int32_t i = 0; i < n; ++i) {
    if (choices[i] > best) {
      second = best;
      best = choices[i];
    } else if (choices[i] > second) {
      second = choices[i];
    }
  }
  return kind == GroupScore::kMax || n < 2 ? best : best + second;
}

// Takes the experts of all but the topk_group best groups out of `choices`.
__device__ void KeepBestGroups(const MoeRouteParams& p, float* choices,
                               float* values, int lane) {
  const int32_t size = p.num_experts / p.n_group;
  float* kept = values + p.n_group;
  for (int32_t g = lane; g < p.n_group; g += kWarpSize) {
    values[g] = GroupValue(p.group_score, choices + g * size, size);
    kept[g] = 0;
  }
  __syncwarp();
  for (int32_t i = 0; i < p.topk_group; ++i) {
    const int32_t best = ArgMax(values, p.n_group, lane);
    if (best < 0) break;
    if (lane == 0) {
      values[best] = kMinusInfinity;
      kept[best] = 1;
    }
    __syncwarp();
  }
  for (int32_t e = lane; e < p.num_experts; e += kWarpSize) {
    if (kept[e / size] == 0) choices[e] = kMinusInfinity;
  }
  __syncwarp();
}

// Shared memory of a token: scores, what is left to choose from, values of
// groups, and what is chosen.
__host__ __device__ int64_t RouteFloats(const MoeRouteParams& p) {
  return 2 * (int64_t{p.num_experts} + p.n_group + p.top_k);
}

// By one warp, in shared memory of its own.
__device__ void RouteToken(const MoeRouteParams& p, int64_t t, float* scores,
                           int lane) {
  float* choices = scores + p.num_experts;
  float* group_values = choices + p.num_experts;
  auto* ids = reinterpret_cast<int32_t*>(group_values + 2 * p.n_group);
  float* weights = reinterpret_cast<float*>(ids + p.top_k);
  Score(p, p.logits + t * p.num_experts, scores, lane);
  __syncwarp();
  if (p.forced_ids != nullptr) {
    for (int32_t k = lane; k < p.top_k; k += kWarpSize) {
      ids[k] = p.forced_ids[t * p.top_k + k];
    }
  } else {
    for (int32_t e = lane; e < p.num_experts; e += kWarpSize) {
      choices[e] = scores[e] + (p.bias != nullptr ? p.bias[e] : 0.0f);
    }
    __syncwarp();
    if (p.n_group > 1) KeepBestGroups(p, choices, group_values, lane);
    for (int32_t k = 0; k < p.top_k; ++k) {
      // Non-finite logits leave nothing to choose: the token skips the slot.
      const int32_t best = ArgMax(choices, p.num_experts, lane);
      if (lane == 0) {
        ids[k] = best;
        if (best >= 0) choices[best] = kMinusInfinity;
      }
      __syncwarp();
    }
  }
  __syncwarp();
  if (lane == 0) {
    for (int32_t i = 1; i < p.top_k; ++i) {
      const int32_t id = ids[i];
      int32_t at = i;
      for (; at > 0 && ids[at - 1] > id; --at) ids[at] = ids[at - 1];
      ids[at] = id;
    }
    float sum = 0;
    for (int32_t k = 0; k < p.top_k; ++k) {
      weights[k] = ids[k] < 0 ? 0.0f : scores[ids[k]];
      sum += weights[k];
    }
    *group_values = p.norm_topk_prob ? 1.0f / (sum + 1e-20f) : 1.0f;
  }
  __syncwarp();
  const float factor = *group_values * p.routed_scaling_factor;
  for (int32_t k = lane; k < p.top_k; k += kWarpSize) {
    p.expert_ids[t * p.top_k + k] = ids[k];
    p.expert_weights[t * p.top_k + k] = weights[k] * factor;
  }
}

// This warp's part of the dynamic shared memory.
__device__ __forceinline__ float* WarpShared(const MoeRouteParams& p) {
  return reinterpret_cast<float*>(DynamicShared()) +
         threadIdx.x / kWarpSize * RouteFloats(p);
}

// A warp a token.
__global__ __launch_bounds__(kRouteWarps* kWarpSize) void MoeRouteKernel(
    MoeRouteParams p) {
  const int64_t t = int64_t{blockIdx.x} * kRouteWarps + threadIdx.x / kWarpSize;
  if (t >= p.num_tokens) return;
  RouteToken(p, t, WarpShared(p), threadIdx.x % kWarpSize);
}

// The router's product of a few tokens; its last thread block routes them all.
template <DType kType, int kTokens>
__global__ __launch_bounds__(kRouteWarps* kWarpSize) void RouterKernel(
    const __grid_constant__ ProductArgs router, MoeRouteParams p,
    unsigned* counter) {
  MultiplyExact<kType, kTokens, 1>(router);
  if (!LastBlock(counter, gridDim.x)) return;
  for (int64_t t = threadIdx.x / kWarpSize; t < p.num_tokens;
       t += kRouteWarps) {
    RouteToken(p, t, WarpShared(p), threadIdx.x % kWarpSize);
    __syncwarp();
  }
}

size_t SharedBytes(const MoeRouteParams& p) {
  return kRouteWarps * RouteFloats(p) * sizeof(float);
}

// False for a type that has no such kernel.
bool RunRouter(LaunchContext& context, const MoeRouteParams& p,
               const GroupedProduct& router) {
  const dim3 grid(static_cast<unsigned>(
      (router.shape.out_features + kRouteWarps - 1) / kRouteWarps));
  return PlainTypes::Dispatch(router.shape.dtype, [&]<DType kType>() {
    const auto kernel = p.num_tokens == 1 ? RouterKernel<kType, 1>
                                          : RouterKernel<kType, kTokenTile>;
    context.Launch(kernel, grid, kRouteWarps * kWarpSize, SharedBytes(p),
                   MakeProductArgs(router), p, context.counters());
  });
}

}  // namespace

void MoeRoute(LaunchContext& context, const MoeRouteParams& p,
              const GroupedProduct* router) {
  if (p.num_tokens == 0) return;
  if (router != nullptr) {
    if (p.num_tokens <= kTokenTile && !router->shape.fast &&
        RunRouter(context, p, *router)) {
      return;
    }
    RunProduct(context, *router);
  }
  const int64_t blocks = (p.num_tokens + kRouteWarps - 1) / kRouteWarps;
  context.Launch(MoeRouteKernel, dim3(static_cast<unsigned>(blocks)),
                 kRouteWarps * kWarpSize, SharedBytes(p), p);
}

}  // namespace shoal::cuda
