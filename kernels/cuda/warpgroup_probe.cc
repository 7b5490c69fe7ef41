#include "kernels/cuda/warpgroup_probe.h"

#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/cuda/attention_ops.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/probe_memory.h"

namespace shoal::cuda {
namespace {

// Numbers of either sign over some powers of two, always the same.
class Numbers {
 public:
  uint16_t BF16() {
    state_ = state_ * 1664525 + 1013904223;
    const uint32_t exponent = 124 + (state_ >> 27) % 6;
    return static_cast<uint16_t>(state_ >> 31 << 15 | exponent << 7 |
                                 (state_ >> 16 & 0x7f));
  }
  float F32() {
    const uint32_t bits = static_cast<uint32_t>(BF16()) << 16;
    float x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
  }

 private:
  uint32_t state_ = 1;
};

// Whether `run` writes the same to out [count] with warpgroups and without.
template <typename Run>
bool Agrees(LaunchContext& context, ProbeMemory& memory, const float* out,
            int64_t count, const Run& run) {
  const WarpgroupUse before = context.warpgroups();
  std::vector<float> results[2];
  for (const bool use : {false, true}) {
    context.set_warpgroups({use, use});
    if (context.error() == cudaSuccess) run();
    results[use] = memory.Read(out, count);
  }
  context.set_warpgroups(before);
  return context.error() == cudaSuccess &&
         std::memcmp(results[0].data(), results[1].data(),
                     count * sizeof(float)) == 0;
}

// A product of `num_rows` rows with `num_groups` matrices, all the same one.
bool ProductsAgree(LaunchContext& context, int64_t num_groups,
                   int64_t num_rows) {
  // Nine steps of 32: an odd number, in segments of two.
  constexpr int64_t kWidth = 288;
  constexpr int64_t kFeatures = 64;
  ProbeMemory memory(context);
  Numbers numbers;
  std::vector<uint16_t> weights(kFeatures * kWidth);
  for (uint16_t& w : weights) w = numbers.BF16();
  std::vector<float> in(num_rows * kWidth);
  for (float& x : in) x = numbers.F32();
  const std::vector<WeightPointers> pointers(
      num_groups, {reinterpret_cast<const uint8_t*>(memory.Copy(weights))});
  GroupedProduct product;
  product.shape.dtype = DType::kBF16;
  product.shape.out_features = kFeatures;
  product.shape.in_features = kWidth;
  product.shape.aligned = true;
  product.shape.fast = true;
  product.groups = memory.Copy(pointers);
  product.num_groups = num_groups;
  product.in = memory.Copy(in);
  product.in_stride = kWidth;
  const int64_t count = num_groups * num_rows * kFeatures;
  product.out = memory.Floats(count);
  product.out_stride = kFeatures;
  product.out_group_stride = num_rows * kFeatures;
  product.num_rows = num_rows;
  return Agrees(context, memory, product.out, count,
                [&] { RunProduct(context, product); });
}

// Attention of a sequence's last tokens to more keys than a chunk has.
bool AttentionAgrees(LaunchContext& context, int32_t head_dim) {
  constexpr int32_t kBlockSize = 16, kHeads = 2, kTokens = 40, kContext = 330;
  constexpr int32_t kBlocks = (kContext + kBlockSize - 1) / kBlockSize;
  ProbeMemory memory(context);
  Numbers numbers;
  std::vector<uint16_t> keys(kBlocks * kBlockSize * head_dim);
  std::vector<uint16_t> values(keys.size());
  for (uint16_t& x : keys) x = numbers.BF16();
  for (uint16_t& x : values) x = numbers.BF16();
  std::vector<float> queries(kTokens * kHeads * head_dim);
  for (float& x : queries) x = numbers.F32();
  std::vector<int32_t> table(kBlocks);
  std::iota(table.rbegin(), table.rend(), 0);
  PagedAttentionParams p;
  p.q = memory.Copy(queries);
  p.cu_seqlens_q = memory.Copy(std::vector<int32_t>{0, kTokens});
  p.context_lens = memory.Copy(std::vector<int32_t>{kContext});
  p.block_tables = memory.Copy(table);
  p.k_cache = {
      memory.Copy(keys), DType::kBF16, {kBlocks, kBlockSize, 1, head_dim}};
  p.v_cache = {
      memory.Copy(values), DType::kBF16, {kBlocks, kBlockSize, 1, head_dim}};
  const int64_t count = int64_t{kTokens} * kHeads * head_dim;
  float* const out = memory.Floats(count);
  p.out = out;
  p.num_seqs = 1;
  p.max_seqlen_q = kTokens;
  p.max_blocks = kBlocks;
  p.block_size = kBlockSize;
  p.num_heads = kHeads;
  p.num_kv_heads = 1;
  p.head_dim = p.v_dim = head_dim;
  p.scale = 0.01f;
  return Agrees(context, memory, out, count,
                [&] { PagedAttention(context, p); });
}

}  // namespace

WarpgroupUse ProbeWarpgroups(LaunchContext& context) {
  context.Begin("ProbeWarpgroups");
  int major = 0;
  if (!context.Check(cudaDeviceGetAttribute(
          &major, cudaDevAttrComputeCapabilityMajor, 0)) ||
      major != 9) {
    return {};
  }
  WarpgroupUse use;
  // Few products are cut into small tiles, many into large ones.
  use.products = ProductsAgree(context, 1, 40) &&
                 ProductsAgree(context, 2 * context.num_multiprocessors(), 100);
  use.attention = AttentionAgrees(context, 64) && AttentionAgrees(context, 128);
  return use;
}

}  // namespace shoal::cuda
