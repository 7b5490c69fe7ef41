// Launchers of the ops on rows and of the embedding; the params are those of
// the kernel table's ops, the pointers the device's.
#pragma once

#include "kernels/attention.h"
#include "kernels/compress.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear.h"
#include "kernels/elementwise.h"
#include "kernels/hyper_connection.h"

namespace shoal::cuda {

void RmsNorm(LaunchContext& context, const RmsNormParams& params);
void LayerNorm(LaunchContext& context, const LayerNormParams& params);
void Rope(LaunchContext& context, const RopeParams& params);
// With `num_rows` (on the device) only the first *num_rows <= num_tokens rows.
void SiluMul(LaunchContext& context, const SiluMulParams& params,
             const int32_t* num_rows);
void Zero(LaunchContext& context, float* out, int64_t n);
void ArgMax(LaunchContext& context, const ArgMaxParams& params);
void Add(LaunchContext& context, const float* in, int64_t n, float* out);
void CacheWrite(LaunchContext& context, const CacheWriteParams& params);
void CopyRows(LaunchContext& context, const CopyRowsParams& params);
// The last `tail` values of every head: what HeadLinear copies.
void CopyTails(LaunchContext& context, const HeadLinearParams& params,
               int64_t in_features, int64_t out_features);
// REQUIRES: IsProductType(table.data.dtype).
void Embedding(LaunchContext& context, const EmbeddingParams& params);

void Compress(LaunchContext& context, const CompressParams& params);
void HyperMix(LaunchContext& context, const HyperMixParams& params);
void HyperExpand(LaunchContext& context, const HyperExpandParams& params);

}  // namespace shoal::cuda
