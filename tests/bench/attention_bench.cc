// Speed of the attentions; see kernels_bench.cc. Caches are bf16; bytes are
// those of the cached rows in sight, each once; items are multiply-adds times
// two of all pairs of a query and a key in its sight.
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/quant/float_bits.h"
#include "tests/bench/kernels_bench.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace shoal {
namespace {

constexpr int32_t kBlock = 16;

struct HeadShape {
  int32_t heads, kv_heads, dim, v_dim;
};
constexpr HeadShape kGqa = {9, 3, 64, 64};        // SmolLM2-135M
constexpr HeadShape kLatent = {16, 1, 576, 512};  // DeepSeek-V2-Lite, absorbed

std::vector<uint16_t> Values(int64_t n) {
  std::vector<uint16_t> values(n);
  for (int64_t i = 0; i < n; ++i) {
    values[i] = F32ToBF16(static_cast<float>(i * 37 % 101 - 50) * 0.01f);
  }
  return values;
}

std::vector<float> Queries(int64_t n) {
  std::vector<float> values(n);
  for (int64_t i = 0; i < n; ++i) {
    values[i] = static_cast<float>(i * 53 % 97 - 48) * 0.02f;
  }
  return values;
}

// `num_seqs` sequences of `context` tokens of which the last q_len are new.
void Paged(benchmark::State& state, const HeadShape& shape, int32_t num_seqs,
           int32_t context, int32_t q_len) {
  const int32_t blocks = (context + kBlock - 1) / kBlock;
  const int64_t rows = int64_t{num_seqs} * blocks * kBlock;
  const bool latent = shape.dim != shape.v_dim;
  const std::vector<uint16_t> k = Values(rows * shape.kv_heads * shape.dim);
  const std::vector<uint16_t> v = latent ? std::vector<uint16_t>() : k;
  const int64_t tokens = int64_t{num_seqs} * q_len;
  const std::vector<float> q = Queries(tokens * shape.heads * shape.dim);
  std::vector<float> out(tokens * shape.heads * shape.v_dim);
  std::vector<int32_t> tables(int64_t{num_seqs} * blocks);
  std::iota(tables.rbegin(), tables.rend(), 0);
  std::vector<int32_t> cu_seqlens = {0};
  const std::vector<int32_t> contexts(num_seqs, context);
  for (int32_t s = 0; s < num_seqs; ++s) {
    cu_seqlens.push_back(cu_seqlens.back() + q_len);
  }
  PagedAttentionParams params;
  params.q = q.data();
  params.cu_seqlens_q = cu_seqlens.data();
  params.context_lens = contexts.data();
  params.block_tables = tables.data();
  params.k_cache = {k.data(),
                    DType::kBF16,
                    {rows / kBlock, kBlock, shape.kv_heads, shape.dim}};
  params.v_cache = params.k_cache;
  if (!latent) params.v_cache.data = v.data();
  params.out = out.data();
  params.num_seqs = num_seqs;
  params.max_blocks = blocks;
  params.block_size = kBlock;
  params.num_heads = shape.heads;
  params.num_kv_heads = shape.kv_heads;
  params.head_dim = shape.dim;
  params.v_dim = shape.v_dim;
  params.scale = 0.125f;
  for (auto _ : state) BenchTable().PagedAttention(params);
  const int64_t stored = int64_t{context} * shape.kv_heads * num_seqs;
  state.SetBytesProcessed(state.iterations() * stored * 2 *
                          (shape.dim + (latent ? 0 : shape.v_dim)));
  state.SetItemsProcessed(state.iterations() * 2 * shape.heads *
                          (shape.dim + shape.v_dim) * tokens *
                          (2 * context - q_len + 1) / 2);
}

// DeepSeek-V2-Lite with expanded keys and values; items count the expansion.
void Expanded(benchmark::State& state, int32_t context, int32_t q_len) {
  const int64_t rank = 512, rope = 64, nope = 128, value = 128, heads = 16;
  const int32_t blocks = (context + kBlock - 1) / kBlock;
  const std::vector<uint16_t> cache = Values(blocks * kBlock * (rank + rope));
  const std::vector<uint16_t> weights = Values(rank * (nope + value));
  const std::vector<float> q = Queries(q_len * heads * (nope + rope));
  std::vector<float> out(q_len * heads * value);
  std::vector<int32_t> table(blocks);
  std::iota(table.rbegin(), table.rend(), 0);
  const auto pack = [&](const uint16_t* data, int64_t rows, int64_t width) {
    WeightView view;
    view.data = {data, DType::kBF16, {rows, width}};
    return BenchTable().Pack(view, Precision::kFast).value();
  };
  const auto k = pack(weights.data(), rank, nope);
  const auto v = pack(weights.data() + rank * nope, value, rank);
  const std::vector<const PackedMatrix*> ks(heads, k.get()), vs(heads, v.get());
  const int32_t cu_seqlens[] = {0, q_len};
  LatentAttentionParams params;
  params.q = q.data();
  params.k_weights = ks;
  params.v_weights = vs;
  params.cu_seqlens_q = cu_seqlens;
  params.context_lens = &context;
  params.block_tables = table.data();
  params.cache = {cache.data(), DType::kBF16, {blocks, kBlock, rank + rope}};
  params.out = out.data();
  params.num_seqs = 1;
  params.max_blocks = blocks;
  params.rope_dim = rope;
  params.scale = 0.07f;
  for (auto _ : state) BenchTable().LatentAttention(params);
  state.SetBytesProcessed(state.iterations() * context * 2 * (rank + rope));
  const int64_t pairs = q_len * int64_t{2 * context - q_len + 1} / 2;
  state.SetItemsProcessed(
      state.iterations() * 2 * heads *
      (pairs * (nope + rope + value) + context * rank * (nope + value)));
}

// One token of DeepSeek-V3.2's indexer: scan and choice.
void Indexer(benchmark::State& state, int32_t visible) {
  const int32_t heads = 64, dim = 128, top_k = 2048;
  const int32_t blocks = (visible + kBlock - 1) / kBlock;
  const std::vector<uint16_t> keys = Values(int64_t{blocks} * kBlock * dim);
  const std::vector<float> q = Queries(heads * dim), weights = Queries(heads);
  std::vector<int32_t> table(blocks), slots(top_k);
  std::iota(table.rbegin(), table.rend(), 0);
  const int32_t cu_seqlens[] = {0, 1};
  int32_t count = 0;
  KeySelectParams params;
  params.q = q.data();
  params.weights = weights.data();
  params.keys = {keys.data(), DType::kBF16, {blocks, kBlock, dim}};
  params.cu_seqlens_q = cu_seqlens;
  params.block_tables = table.data();
  params.num_visible = &visible;
  params.num_seqs = 1;
  params.max_blocks = blocks;
  params.keys_per_block = kBlock;
  params.num_heads = heads;
  params.head_dim = dim;
  params.top_k = top_k;
  params.slots = slots.data();
  params.num_selected = &count;
  for (auto _ : state) BenchTable().KeySelect(params);
  state.SetBytesProcessed(state.iterations() * int64_t{visible} * dim * 2);
  state.SetItemsProcessed(state.iterations() * int64_t{2} * heads * dim *
                          visible);
}

// One token's heads against chosen rows.
void Sparse(benchmark::State& state, const HeadShape& shape, int32_t chosen) {
  const int64_t rows = 4 * chosen;
  const std::vector<uint16_t> keys = Values(rows * shape.dim);
  const std::vector<float> q = Queries(int64_t{shape.heads} * shape.dim);
  std::vector<float> out(int64_t{shape.heads} * shape.v_dim);
  std::vector<int32_t> slots(chosen);
  for (int32_t j = 0; j < chosen; ++j) slots[j] = j * 4 + j % 3;
  const KeySource sources[] = {
      {ConstTensorView(keys.data(), DType::kBF16, {rows, shape.dim}),
       slots.data(), &chosen, chosen}};
  SparseAttentionParams params;
  params.q = q.data();
  params.sources = sources;
  params.out = out.data();
  params.num_tokens = 1;
  params.num_heads = shape.heads;
  params.head_dim = shape.dim;
  params.v_dim = shape.v_dim;
  params.scale = 0.05f;
  for (auto _ : state) BenchTable().SparseAttention(params);
  state.SetBytesProcessed(state.iterations() * int64_t{chosen} * 2 * shape.dim);
  state.SetItemsProcessed(state.iterations() * int64_t{2} * shape.heads *
                          (shape.dim + shape.v_dim) * chosen);
}

#if defined(__x86_64__)
// Products in registers, 24 sums: fused f32, and pairs of bf16.
__attribute__((target("avx512f"))) void MachineFloat(benchmark::State& state) {
  constexpr int kRounds = 1000, kSums = 24;
  __m512 sums[kSums];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  __m512 a = _mm512_set1_ps(1), b = a;
  for (auto _ : state) {
    for (int i = 0; i < kRounds; ++i) {
      asm volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 24
      for (int j = 0; j < kSums; ++j) {
        sums[j] = _mm512_fmadd_ps(a, b, sums[j]);
      }
    }
  }
  benchmark::DoNotOptimize(sums);
  state.SetItemsProcessed(state.iterations() * kRounds * kSums * 16 * 2);
}
__attribute__((target("avx512f,avx512bf16"))) void MachineBf16(
    benchmark::State& state) {
  constexpr int kRounds = 1000, kSums = 24;
  __m512 sums[kSums];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  auto a = (__m512bh)_mm512_set1_epi16(0x3f80);
  auto b = a;
  for (auto _ : state) {
    for (int i = 0; i < kRounds; ++i) {
      asm volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 24
      for (int j = 0; j < kSums; ++j) {
        sums[j] = _mm512_dpbf16_ps(sums[j], a, b);
      }
    }
  }
  benchmark::DoNotOptimize(sums);
  state.SetItemsProcessed(state.iterations() * kRounds * kSums * 32 * 2);
}
#endif

}  // namespace

void RegisterAttention() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    RegisterBench("machine/f32", MachineFloat);
  }
  if (__builtin_cpu_supports("avx512bf16")) {
    RegisterBench("machine/bf16", MachineBf16);
  }
#endif
  const auto paged = [](const std::string& name, const HeadShape& shape,
                        int32_t num_seqs, int32_t context, int32_t q_len) {
    RegisterBench(name + "/" + std::to_string(num_seqs) + "x" +
                      std::to_string(context) + "/" + std::to_string(q_len),
                  [=](benchmark::State& state) {
                    Paged(state, shape, num_seqs, context, q_len);
                  });
  };
  for (const auto& [num_seqs, context, q_len] :
       {std::array<int32_t, 3>{1, 128, 1},
        {1, 2048, 1},
        {1, 16384, 1},
        {32, 512, 1},
        {1, 512, 512},
        {1, 2048, 512}}) {
    paged("attention", kGqa, num_seqs, context, q_len);
  }
  for (const auto& [num_seqs, context, q_len] :
       {std::array<int32_t, 3>{1, 512, 1},
        {1, 8192, 1},
        {16, 512, 1},
        {1, 512, 16}}) {
    paged("absorbed", kLatent, num_seqs, context, q_len);
  }
  RegisterBench("expanded/512/512",
                [](benchmark::State& state) { Expanded(state, 512, 512); });
  for (const int32_t visible : {2049, 32768}) {
    RegisterBench("indexer/" + std::to_string(visible),
                  [=](benchmark::State& state) { Indexer(state, visible); });
  }
  RegisterBench("sparse/v3.2/2048", [](benchmark::State& state) {
    Sparse(state, {128, 1, 576, 512}, 2048);
  });
  RegisterBench("sparse/v4/640", [](benchmark::State& state) {
    Sparse(state, {64, 1, 512, 512}, 640);
  });
}

}  // namespace shoal
