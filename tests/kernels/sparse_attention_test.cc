// Attention over chosen rows, the choice itself, and attention over expanded
// latent rows, against plain double precision.
#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>

#include "tests/kernels/op_test_support.h"

namespace shoal {
namespace {

float RoundTo(DType dtype, float x) {
  if (dtype == DType::kBF16) return BF16ToF32(F32ToBF16(x));
  return dtype == DType::kF16 ? F16ToF32(F32ToF16(x)) : x;
}

// Queries against caches of bf16, which instruction sets that multiply bf16
// would round.
void RoundAll(DType dtype, std::vector<float>* values) {
  if (dtype != DType::kBF16) return;
  for (float& x : *values) x = RoundTo(dtype, x);
}

// Random rows of a cache, as stored and as read.
struct CacheRows {
  std::vector<uint8_t> bytes;
  std::vector<float> values;

  CacheRows(int64_t rows, int64_t width, DType dtype, Random& random) {
    bytes.resize(DTypeBytes(dtype, rows * width));
    for (int64_t i = 0; i < rows * width; ++i) {
      values.push_back(RoundTo(dtype, random.Normal()));
      if (dtype == DType::kF32) {
        std::memcpy(&bytes[4 * i], &values.back(), 4);
      } else {
        const uint16_t half = dtype == DType::kBF16 ? F32ToBF16(values.back())
                                                    : F32ToF16(values.back());
        std::memcpy(&bytes[2 * i], &half, 2);
      }
    }
  }
};

class SparseAttentionTest : public OpTest {};

TEST_P(SparseAttentionTest, RowsOfSeveralSourcesWithAndWithoutSinks) {
  Random random(3);
  for (const auto& [dtype, other] : {std::pair{DType::kF32, DType::kF32},
                                     {DType::kBF16, DType::kBF16},
                                     {DType::kBF16, DType::kF32},
                                     {DType::kF16, DType::kF32}}) {
    const double tolerance = other == DType::kBF16 ? 8e-3 : 3e-5;
    for (const int32_t dim : {8, 34, 64, 96}) {
      for (const bool sinks : {false, true}) {
        const int64_t tokens = 5;
        const int32_t heads = dim == 8 ? 70 : 3, most = 150;
        const int32_t v_dim = dim == 64 ? 56 : dim - 3;
        const int64_t num_rows = 40;
        const CacheRows first(num_rows, dim, dtype, random);
        const CacheRows second(num_rows, dim, other, random);
        std::vector<std::vector<int32_t>> slots(2), counts(2);
        for (int source = 0; source < 2; ++source) {
          for (int64_t i = 0; i < tokens * most; ++i) {
            slots[source].push_back(
                static_cast<int32_t>(random.Integer(0, num_rows - 1)));
          }
        }
        counts[0] = {1, 64, 0, 65, most};
        counts[1] = {0, 64, 3, 62, 7};
        std::vector<float> q = random.Normals(tokens * heads * dim);
        RoundAll(dtype, &q);
        const std::vector<float> sink = random.Normals(heads, 2.0f);
        std::vector<float> out(tokens * heads * v_dim, NAN);
        const KeySource sources[] = {
            {ConstTensorView(first.bytes.data(), dtype, {num_rows, dim}),
             slots[0].data(), counts[0].data(), most},
            {ConstTensorView(second.bytes.data(), other, {num_rows, dim}),
             slots[1].data(), counts[1].data(), most}};
        SparseAttentionParams params;
        params.q = q.data();
        params.sources = sources;
        params.sinks = sinks ? sink.data() : nullptr;
        params.out = out.data();
        params.num_tokens = tokens;
        params.num_heads = heads;
        params.head_dim = dim;
        params.v_dim = v_dim;
        params.scale = 0.3f;
        table_->SparseAttention(params);

        for (int64_t t = 0; t < tokens; ++t) {
          std::vector<const float*> keys;
          for (int source = 0; source < 2; ++source) {
            const CacheRows& rows = source == 0 ? first : second;
            for (int32_t j = 0; j < counts[source][t]; ++j) {
              keys.push_back(rows.values.data() +
                             slots[source][t * most + j] * dim);
            }
          }
          for (int32_t h = 0; h < heads; ++h) {
            std::vector<double> expected(v_dim);
            double total = sinks ? std::exp(double{sink[h]}) : 0;
            for (const float* key : keys) {
              double dot = 0;
              for (int32_t i = 0; i < dim; ++i) {
                dot += double{q[(t * heads + h) * dim + i]} * key[i];
              }
              const double weight = std::exp(dot * params.scale);
              total += weight;
              for (int32_t i = 0; i < v_dim; ++i) {
                expected[i] += weight * key[i];
              }
            }
            for (int32_t i = 0; i < v_dim; ++i) {
              ASSERT_NEAR(out[(t * heads + h) * v_dim + i], expected[i] / total,
                          tolerance)
                  << dim << " token " << t << " head " << h;
            }
          }
        }
      }
    }
  }
}

TEST_P(SparseAttentionTest, SelectsTheBestKeysInOrder) {
  Random random(4);
  struct Batch {
    std::vector<int32_t> cu_seqlens, visible;  // keys of each token
  };
  // Chunks, and a decode step over more keys than a thread block scores.
  const Batch batches[] = {{{0, 4, 6}, {0, 3, 70, 131, 131, 5}},
                           {{0, 1, 2, 3, 4}, {131, 700, 5, 257}}};
  for (const int32_t per_block : {1, 4, 7}) {
    for (const int32_t top_k : {1, 5, 64, 200}) {
      for (const auto& [cu_seqlens, visible] : batches) {
        const int32_t dim = 20, heads = 6;
        const auto num_seqs = static_cast<int32_t>(cu_seqlens.size()) - 1;
        const int32_t max_blocks =
            (*std::max_element(visible.begin(), visible.end()) + per_block -
             1) /
            per_block;
        std::vector<int32_t> tables(num_seqs * max_blocks);
        std::iota(tables.begin(), tables.end(), 0);
        std::shuffle(tables.begin(), tables.end(), random.engine());
        const int64_t blocks = num_seqs * max_blocks;
        const CacheRows keys(blocks * per_block, dim, DType::kBF16, random);
        const auto tokens = static_cast<int64_t>(visible.size());
        std::vector<float> q = random.Normals(tokens * heads * dim);
        RoundAll(DType::kBF16, &q);
        const std::vector<float> weights = random.Normals(tokens * heads);
        std::vector<int32_t> slots(tokens * top_k, -1), counts(tokens, -1);
        KeySelectParams params;
        params.q = q.data();
        params.weights = weights.data();
        params.keys = ConstTensorView(keys.bytes.data(), DType::kBF16,
                                      {blocks, per_block, dim});
        params.cu_seqlens_q = cu_seqlens.data();
        params.block_tables = tables.data();
        params.num_visible = visible.data();
        params.num_seqs = num_seqs;
        params.max_blocks = max_blocks;
        params.keys_per_block = per_block;
        params.num_heads = heads;
        params.head_dim = dim;
        params.top_k = top_k;
        params.slots = slots.data();
        params.num_selected = counts.data();
        table_->KeySelect(params);

        for (int64_t t = 0; t < tokens; ++t) {
          const int64_t seq =
              std::upper_bound(cu_seqlens.begin(), cu_seqlens.end(), t) -
              cu_seqlens.begin() - 1;
          const auto slot_of = [&](int32_t j) {
            return tables[seq * max_blocks + j / per_block] * per_block +
                   j % per_block;
          };
          std::vector<double> scores;
          for (int32_t j = 0; j < visible[t]; ++j) {
            double score = 0;
            for (int32_t h = 0; h < heads; ++h) {
              double dot = 0;
              for (int32_t i = 0; i < dim; ++i) {
                dot += double{q[(t * heads + h) * dim + i]} *
                       keys.values[int64_t{slot_of(j)} * dim + i];
              }
              score += weights[t * heads + h] * std::max(dot, 0.0);
            }
            scores.push_back(score);
          }
          std::vector<int32_t> order(scores.size());
          std::iota(order.begin(), order.end(), 0);
          std::stable_sort(
              order.begin(), order.end(),
              [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
          if (order.size() > static_cast<size_t>(top_k)) order.resize(top_k);
          std::sort(order.begin(), order.end());
          std::vector<int32_t> expected;
          for (const int32_t j : order) expected.push_back(slot_of(j));
          const auto first = slots.begin() + t * top_k;
          ASSERT_EQ(counts[t], static_cast<int32_t>(expected.size()));
          EXPECT_EQ(std::vector<int32_t>(first, first + counts[t]), expected)
              << "top " << top_k << " token " << t;
        }
      }
    }
  }
}

TEST_P(SparseAttentionTest, EqualScoresChooseTheEarlierKeys) {
  // More keys than one thread takes.
  const int32_t dim = 8, visible = 2500, top_k = 10;
  const std::vector<float> keys(visible * dim, 1.0f), q(dim, 1.0f);
  const float weight = 1;
  const int32_t cu_seqlens[] = {0, 1};
  std::vector<int32_t> table(visible);
  std::iota(table.begin(), table.end(), 0);
  std::vector<int32_t> slots(top_k), expected(top_k);
  std::iota(expected.begin(), expected.end(), 0);
  int32_t count = 0;
  KeySelectParams params;
  params.q = q.data();
  params.weights = &weight;
  params.keys = ConstTensorView(keys.data(), DType::kF32, {visible, 1, dim});
  params.cu_seqlens_q = cu_seqlens;
  params.block_tables = table.data();
  params.num_visible = &visible;
  params.num_seqs = 1;
  params.max_blocks = visible;
  params.keys_per_block = 1;
  params.num_heads = 1;
  params.head_dim = dim;
  params.top_k = top_k;
  params.slots = slots.data();
  params.num_selected = &count;
  table_->KeySelect(params);
  EXPECT_EQ(slots, expected);
}

TEST_P(SparseAttentionTest, ExpandedLatentRows) {
  Random random(5);
  struct Case {
    int64_t rank, nope, rope, value;
    DType weights, cache;
    bool rounded = false;  // heads as a model with rounded ones has them
    float scale = 2;
  };
  for (const Case& c :
       {Case{24, 12, 8, 10, DType::kF32, DType::kF32},
        Case{40, 24, 16, 24, DType::kBF16, DType::kBF16},
        Case{48, 24, 16, 24, DType::kBF16, DType::kBF16},
        Case{17, 5, 2, 33, DType::kF32, DType::kF16},
        Case{128, 128, 64, 128, DType::kBF16, DType::kBF16, true, 0.5f}}) {
    const int64_t heads = 3, row = c.rank + c.rope, q_dim = c.nope + c.rope;
    const int32_t block_size = 5;
    const std::vector<int32_t> context = {1, 70, 130};
    const std::vector<int32_t> cu_seqlens = {0, 1, 6, 136};
    const int32_t max_blocks = 26;
    std::vector<int32_t> tables(3 * max_blocks);
    std::iota(tables.begin(), tables.end(), 0);
    std::shuffle(tables.begin(), tables.end(), random.engine());
    const CacheRows cache(3 * max_blocks * block_size, row, c.cache, random);
    std::vector<float> q = random.Normals(136 * heads * q_dim);
    RoundAll(c.cache, &q);
    // Expanded rows may be rounded to bf16 too.
    const double tolerance = c.rounded                 ? 2e-2
                             : c.cache == DType::kBF16 ? 8e-3
                                                       : 3e-5;
    std::vector<StoredWeight> stored;
    std::vector<std::unique_ptr<PackedMatrix>> packed;
    std::vector<const PackedMatrix*> k, v;
    stored.reserve(2 * heads);
    for (int64_t h = 0; h < 2 * heads; ++h) {
      const bool key = h < heads;
      stored.push_back(key ? MakeWeight(c.weights, c.rank, c.nope, random)
                           : MakeWeight(c.weights, c.value, c.rank, random));
      auto matrix = table_->Pack(
          stored.back().view,
          c.rounded ? table_->rounded_head_precision() : Precision::kExact);
      ASSERT_TRUE(matrix.ok()) << matrix.status();
      packed.push_back(*std::move(matrix));
      (key ? k : v).push_back(packed.back().get());
    }
    std::vector<float> out(136 * heads * c.value, NAN);
    LatentAttentionParams params;
    params.q = q.data();
    params.k_weights = k;
    params.v_weights = v;
    params.cu_seqlens_q = cu_seqlens.data();
    params.context_lens = context.data();
    params.block_tables = tables.data();
    params.cache = ConstTensorView(cache.bytes.data(), c.cache,
                                   {3 * max_blocks, block_size, row});
    params.out = out.data();
    params.num_tokens = 136;
    params.num_seqs = 3;
    params.max_blocks = max_blocks;
    params.rope_dim = static_cast<int32_t>(c.rope);
    params.scale = c.scale;
    table_->LatentAttention(params);

    for (int32_t s = 0; s < 3; ++s) {
      const int32_t q_len = cu_seqlens[s + 1] - cu_seqlens[s];
      for (int64_t h = 0; h < heads; ++h) {
        const std::vector<float> uk = stored[h].Dequantized();
        const std::vector<float> uv = stored[heads + h].Dequantized();
        for (int32_t i = 0; i < q_len; ++i) {
          const int64_t t = cu_seqlens[s] + i;
          std::vector<double> expected(c.value);
          double total = 0;
          for (int32_t j = 0; j <= context[s] - q_len + i; ++j) {
            const float* latent =
                cache.values.data() +
                (int64_t{tables[s * max_blocks + j / block_size]} * block_size +
                 j % block_size) *
                    row;
            double score = 0;
            for (int64_t d = 0; d < c.nope; ++d) {
              double key = 0;
              for (int64_t r = 0; r < c.rank; ++r) {
                key += double{uk[r * c.nope + d]} * latent[r];
              }
              score += q[(t * heads + h) * q_dim + d] * key;
            }
            for (int64_t d = 0; d < c.rope; ++d) {
              score += double{q[(t * heads + h) * q_dim + c.nope + d]} *
                       latent[c.rank + d];
            }
            const double weight = std::exp(score * params.scale);
            total += weight;
            for (int64_t d = 0; d < c.value; ++d) {
              double value = 0;
              for (int64_t r = 0; r < c.rank; ++r) {
                value += double{uv[d * c.rank + r]} * latent[r];
              }
              expected[d] += weight * value;
            }
          }
          for (int64_t d = 0; d < c.value; ++d) {
            ASSERT_NEAR(out[(t * heads + h) * c.value + d], expected[d] / total,
                        tolerance)
                << "sequence " << s << " token " << i << " head " << h;
          }
        }
      }
    }
  }
}

INSTANTIATE_OP_TEST(SparseAttentionTest);

}  // namespace
}  // namespace shoal
