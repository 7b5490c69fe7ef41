// Launchers of the ops on rows and of the embedding; the params are those of
// the kernel table's ops, the pointers the device's.
#pragma once

#include "kernels/attention.h"
#include "kernels/compress.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear.h"
#include "kernels/elementwise.h"
#include "kernels/hyper_connection.h"
#include "kernels/latent_attention.h"

namespace shoal::cuda {

void RmsNorm(LaunchContext& context, const RmsNormParams& params);
void LayerNorm(LaunchContext& context, const LayerNormParams& params);
void Rope(LaunchContext& context, const RopeParams& params);
// With `num_rows` (on the device) only the first *num_rows <= num_tokens rows.
void SiluMul(LaunchContext& context, const SiluMulParams& params,
             const int32_t* num_rows);
void Zero(LaunchContext& context, float* out, int64_t n);
void Add(LaunchContext& context, const float* in, int64_t n, float* out);
void CacheWrite(LaunchContext& context, const CacheWriteParams& params);
// REQUIRES: rows, not tiles.
void HeadsWrite(LaunchContext& context, const HeadsWriteParams& params);
void LatentWrite(LaunchContext& context, const LatentWriteParams& params);
void CopyRows(LaunchContext& context, const CopyRowsParams& params);
// The last `tail` values of every head, to be copied. `in` and `out` are the
// first tails; strides in floats.
struct HeadTails {
  const float* in = nullptr;
  float* out = nullptr;
  int64_t in_token_stride = 0, in_head_stride = 0;
  int64_t out_token_stride = 0, out_head_stride = 0;
  int64_t num_tokens = 0, num_heads = 0, tail = 0;
};
void CopyTails(LaunchContext& context, const HeadTails& tails);
// REQUIRES: IsProductType(table.data.dtype).
void Embedding(LaunchContext& context, const EmbeddingParams& params);

void Compress(LaunchContext& context, const CompressParams& params);
void HyperMix(LaunchContext& context, const HyperMixParams& params);
void HyperExpand(LaunchContext& context, const HyperExpandParams& params);

}  // namespace shoal::cuda
