// Rows of a stored table as f32: a thread eight values.
#include "kernels/check.h"
#include "kernels/cuda/decode_weights.cuh"
#include "kernels/cuda/row_ops.h"

namespace shoal::cuda {
namespace {

struct EmbeddingArgs {
  const uint8_t* data;
  const uint8_t* scales;
  WeightLayout layout;
  const int32_t* token_ids;
  float* out;
};

// Grid: tokens, tiles of the row.
template <DType kType>
__global__ void EmbeddingKernel(EmbeddingArgs p) {
  const int64_t k = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kUnit;
  const int64_t width = p.layout.in_features;
  if (k >= width) return;
  float w[kUnit];
  LoadWeights8<kType>(p.data, p.scales, p.layout, p.token_ids[blockIdx.x], k,
                      w);
  float* out = p.out + blockIdx.x * width + k;
#pragma unroll
  for (int i = 0; i < kUnit; ++i) {
    if (k + i < width) out[i] = w[i];
  }
}

}  // namespace

void Embedding(LaunchContext& context, const EmbeddingParams& params) {
  if (params.num_tokens == 0) return;
  constexpr unsigned kThreads = 128;
  const WeightView& table = params.table;
  EmbeddingArgs args;
  args.data = static_cast<const uint8_t*>(table.data.data);
  args.scales = static_cast<const uint8_t*>(table.scales.data);
  args.layout.row_bytes = DTypeBytes(table.data.dtype, table.in_features());
  args.layout.in_features = table.in_features();
  args.layout.aligned = reinterpret_cast<uintptr_t>(args.data) % 16 == 0 &&
                        args.layout.row_bytes % 16 == 0;
  if (!table.scales.empty()) {
    args.layout.scale_rows = table.scale_rows;
    args.layout.SetScaleColumns(table.scale_cols);
    args.layout.scales_are_e8m0 = table.scales.dtype == DType::kF8E8M0;
  }
  args.token_ids = params.token_ids;
  args.out = params.out;
  constexpr int64_t kTile = kThreads * kUnit;
  const dim3 grid(
      static_cast<unsigned>(params.num_tokens),
      static_cast<unsigned>((table.in_features() + kTile - 1) / kTile));
  const auto launch = [&]<DType kType>() {
    context.Launch(EmbeddingKernel<kType>, grid, kThreads, 0, args);
  };
  const DType dtype = table.data.dtype;
  SHOAL_CHECK(PlainTypes::Dispatch(dtype, launch) ||
              ScaledTypes::Dispatch(dtype, launch) ||
              Block32Types::Dispatch(dtype, launch) ||
              Block256Types::Dispatch(dtype, launch));
}

}  // namespace shoal::cuda
