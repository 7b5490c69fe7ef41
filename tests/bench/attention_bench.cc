// Speed of the attentions; see kernels_bench.h. Caches are bf16; bytes are
// those of the cached rows in sight, each once; items are multiply-adds times
// two of all pairs of a query and a key in its sight.
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "tests/bench/kernels_bench.h"
#include "tests/bench/paged_case.h"

namespace shoal {
namespace {

// `num_seqs` sequences of `context` tokens of which the last q_len are new.
void Paged(benchmark::State& state, const HeadShape& shape, int32_t num_seqs,
           int32_t context, int32_t q_len) {
  const PagedCase work(shape, num_seqs, context, q_len);
  MeasureOps(state, work.bytes(), work.items(),
             [&] { BenchTable().PagedAttention(work.params); });
}

// DeepSeek-V2-Lite with expanded keys and values; items count the expansion.
void Expanded(benchmark::State& state, int32_t context, int32_t q_len) {
  const int64_t rank = 512, rope = 64, nope = 128, value = 128, heads = 16;
  const int32_t blocks = (context + kBlock - 1) / kBlock;
  const BenchArray<uint16_t> cache(Values(blocks * kBlock * (rank + rope)));
  const std::vector<uint16_t> weights = Values(rank * (nope + value));
  const BenchArray<float> q(Queries(q_len * heads * (nope + rope)));
  const BenchArray<float> out(q_len * heads * value);
  const BenchArray<int32_t> table(Tables(blocks));
  const auto pack = [&](const uint16_t* data, int64_t rows, int64_t width) {
    WeightView view;
    view.data = {data, DType::kBF16, {rows, width}};
    return BenchTable().Pack(view, Precision::kFast).value();
  };
  const auto k = pack(weights.data(), rank, nope);
  const auto v = pack(weights.data() + rank * nope, value, rank);
  const std::vector<const PackedMatrix*> ks(heads, k.get()), vs(heads, v.get());
  const BenchArray<int32_t> cu_seqlens(std::vector<int32_t>{0, q_len});
  const BenchArray<int32_t> contexts(std::vector<int32_t>{context});
  LatentAttentionParams params;
  params.q = q.data();
  params.k_weights = ks;
  params.v_weights = vs;
  params.cu_seqlens_q = cu_seqlens.data();
  params.context_lens = contexts.data();
  params.block_tables = table.data();
  params.cache = {cache.data(), DType::kBF16, {blocks, kBlock, rank + rope}};
  params.out = out.data();
  params.num_tokens = q_len;
  params.num_seqs = 1;
  params.max_blocks = blocks;
  params.rope_dim = rope;
  params.scale = 0.07f;
  const int64_t pairs = q_len * int64_t{2 * context - q_len + 1} / 2;
  MeasureOps(
      state, context * 2 * (rank + rope),
      2 * heads *
          (pairs * (nope + rope + value) + context * rank * (nope + value)),
      [&] { BenchTable().LatentAttention(params); });
}

// One token of DeepSeek-V3.2's indexer: scan and choice.
void Indexer(benchmark::State& state, int32_t visible) {
  const int32_t heads = 64, dim = 128, top_k = 2048;
  const int32_t blocks = (visible + kBlock - 1) / kBlock;
  const BenchArray<uint16_t> keys(Values(int64_t{blocks} * kBlock * dim));
  const BenchArray<float> q(Queries(heads * dim)), weights(Queries(heads));
  const BenchArray<int32_t> table(Tables(blocks)), slots(int64_t{top_k});
  const BenchArray<int32_t> cu_seqlens(std::vector<int32_t>{0, 1});
  const BenchArray<int32_t> num_visible(std::vector<int32_t>{visible});
  const BenchArray<int32_t> count(int64_t{1});
  KeySelectParams params;
  params.q = q.data();
  params.weights = weights.data();
  params.keys = {keys.data(), DType::kBF16, {blocks, kBlock, dim}};
  params.cu_seqlens_q = cu_seqlens.data();
  params.block_tables = table.data();
  params.num_visible = num_visible.data();
  params.num_seqs = 1;
  params.max_blocks = blocks;
  params.keys_per_block = kBlock;
  params.num_heads = heads;
  params.head_dim = dim;
  params.top_k = top_k;
  params.slots = slots.data();
  params.num_selected = count.data();
  MeasureOps(state, int64_t{visible} * dim * 2,
             int64_t{2} * heads * dim * visible,
             [&] { BenchTable().KeySelect(params); });
}

// One token's heads against chosen rows.
void Sparse(benchmark::State& state, const HeadShape& shape, int32_t chosen) {
  const int64_t rows = 4 * chosen;
  const BenchArray<uint16_t> keys(Values(rows * shape.dim));
  const BenchArray<float> q(Queries(int64_t{shape.heads} * shape.dim));
  const BenchArray<float> out(int64_t{shape.heads} * shape.v_dim);
  std::vector<int32_t> spread(chosen);
  for (int32_t j = 0; j < chosen; ++j) spread[j] = j * 4 + j % 3;
  const BenchArray<int32_t> slots(spread);
  const BenchArray<int32_t> count(std::vector<int32_t>{chosen});
  const KeySource sources[] = {
      {ConstTensorView(keys.data(), DType::kBF16, {rows, shape.dim}),
       slots.data(), count.data(), chosen}};
  SparseAttentionParams params;
  params.q = q.data();
  params.sources = sources;
  params.out = out.data();
  params.num_tokens = 1;
  params.num_heads = shape.heads;
  params.head_dim = shape.dim;
  params.v_dim = shape.v_dim;
  params.scale = 0.05f;
  MeasureOps(state, int64_t{chosen} * 2 * shape.dim,
             int64_t{2} * shape.heads * (shape.dim + shape.v_dim) * chosen,
             [&] { BenchTable().SparseAttention(params); });
}

}  // namespace

void RegisterAttention() {
  const auto paged = [](const std::string& name, const HeadShape& shape,
                        int32_t num_seqs, int32_t context, int32_t q_len) {
    RegisterBench(name + "/" + std::to_string(num_seqs) + "x" +
                      std::to_string(context) + "/" + std::to_string(q_len),
                  [=](benchmark::State& state) {
                    Paged(state, shape, num_seqs, context, q_len);
                  });
  };
  using Case = std::array<int32_t, 3>;  // sequences, context, new tokens
  const std::vector<Case> gqa =
      OnHost()
          ? std::vector<Case>{{1, 128, 1},  {1, 2048, 1},  {1, 16384, 1},
                              {32, 512, 1}, {1, 512, 512}, {1, 2048, 512}}
          : std::vector<Case>{
                {1, 8192, 1}, {32, 2048, 1}, {1, 1024, 512}, {1, 4096, 4096}};
  for (const auto& [num_seqs, context, q_len] : gqa) {
    paged("attention", OnHost() ? kSmallGqa : kLargeGqa, num_seqs, context,
          q_len);
  }
  const std::vector<Case> latent =
      OnHost() ? std::vector<Case>{{1, 512, 1},
                                   {1, 8192, 1},
                                   {16, 512, 1},
                                   {1, 512, 16}}
               : std::vector<Case>{{1, 8192, 1}, {32, 2048, 1}, {64, 2048, 1}};
  for (const auto& [num_seqs, context, q_len] : latent) {
    paged("absorbed", kLatent, num_seqs, context, q_len);
  }
  RegisterBench("expanded/512/512",
                [](benchmark::State& state) { Expanded(state, 512, 512); });
  if (!OnHost()) {
    RegisterBench("expanded/8192/2048",
                  [](benchmark::State& state) { Expanded(state, 8192, 2048); });
  }
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
