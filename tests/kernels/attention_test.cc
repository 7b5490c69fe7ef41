#include <gmock/gmock.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "tests/kernels/op_test_support.h"

namespace shoal {
namespace {

struct Sequence {
  int32_t context;  // new tokens included
  int32_t q_len;
};

struct Shape {
  int32_t num_heads;
  int32_t num_kv_heads;
  int32_t head_dim;
  int32_t block_size;
  DType dtype;
};

// Sequences whose keys and values lie in shuffled blocks of a cache.
struct Paged {
  Shape shape;
  std::vector<Sequence> sequences;
  std::vector<int32_t> cu_seqlens = {0}, context_lens, tables;
  int32_t max_blocks = 0;
  std::vector<uint8_t> k_bytes, v_bytes;
  // What the cache holds after rounding, [position, kv head, dim] a sequence.
  std::vector<std::vector<float>> k, v;
  std::vector<float> q;
  PagedAttentionParams params;

  // Instruction sets that multiply bf16 round queries (which the test's are
  // already) and the weights of values; other caches are multiplied in f32.
  double tolerance() const { return shape.dtype == DType::kBF16 ? 8e-3 : 2e-5; }
};

float RoundTo(DType dtype, float x) {
  if (dtype == DType::kBF16) return BF16ToF32(F32ToBF16(x));
  return dtype == DType::kF16 ? F16ToF32(F32ToF16(x)) : x;
}

void Put(DType dtype, float x, std::vector<uint8_t>& bytes, int64_t index) {
  if (dtype == DType::kF32) {
    std::memcpy(&bytes[index * 4], &x, 4);
    return;
  }
  const uint16_t half = dtype == DType::kBF16 ? F32ToBF16(x) : F32ToF16(x);
  std::memcpy(&bytes[index * 2], &half, 2);
}

// `spread` widens the scores, so that maxima move between tiles of keys.
std::unique_ptr<Paged> MakePaged(const Shape& shape,
                                 const std::vector<Sequence>& sequences,
                                 Random& random, float spread = 1.0f) {
  auto paged = std::make_unique<Paged>();
  paged->shape = shape;
  paged->sequences = sequences;
  int32_t used = 0;
  for (const Sequence& sequence : sequences) {
    paged->cu_seqlens.push_back(paged->cu_seqlens.back() + sequence.q_len);
    paged->context_lens.push_back(sequence.context);
    const int32_t blocks =
        (sequence.context + shape.block_size - 1) / shape.block_size;
    paged->max_blocks = std::max(paged->max_blocks, blocks);
    used += blocks;
  }
  std::vector<int32_t> ids(used + 3);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  std::shuffle(ids.begin(), ids.end(), random.engine());
  const int64_t row = int64_t{shape.num_kv_heads} * shape.head_dim;
  const int64_t elements = int64_t(ids.size()) * shape.block_size * row;
  // 0xff is NaN in every type: what is not written must not be read.
  paged->k_bytes.assign(DTypeBytes(shape.dtype, elements), 0xff);
  paged->v_bytes = paged->k_bytes;
  paged->tables.assign(sequences.size() * paged->max_blocks, -1);
  size_t next = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    std::vector<float>& k = paged->k.emplace_back();
    std::vector<float>& v = paged->v.emplace_back();
    for (int32_t j = 0; j < sequences[s].context; ++j) {
      const int32_t block = j / shape.block_size;
      int32_t& id = paged->tables[s * paged->max_blocks + block];
      if (id < 0) id = ids[next++];
      const int64_t slot =
          int64_t{id} * shape.block_size + j % shape.block_size;
      for (int64_t i = 0; i < row; ++i) {
        k.push_back(RoundTo(shape.dtype, random.Normal(spread)));
        v.push_back(RoundTo(shape.dtype, random.Normal()));
        Put(shape.dtype, k.back(), paged->k_bytes, slot * row + i);
        Put(shape.dtype, v.back(), paged->v_bytes, slot * row + i);
      }
    }
  }
  paged->q = random.Normals(int64_t{paged->cu_seqlens.back()} *
                            shape.num_heads * shape.head_dim);
  if (shape.dtype == DType::kBF16) {
    for (float& x : paged->q) x = RoundTo(DType::kBF16, x);
  }
  const int64_t blocks = ids.size();
  PagedAttentionParams& p = paged->params;
  p.q = paged->q.data();
  p.cu_seqlens_q = paged->cu_seqlens.data();
  p.context_lens = paged->context_lens.data();
  p.block_tables = paged->tables.data();
  p.k_cache = {paged->k_bytes.data(),
               shape.dtype,
               {blocks, shape.block_size, shape.num_kv_heads, shape.head_dim}};
  p.v_cache = {paged->v_bytes.data(),
               shape.dtype,
               {blocks, shape.block_size, shape.num_kv_heads, shape.head_dim}};
  p.num_seqs = static_cast<int32_t>(sequences.size());
  for (const Sequence& sequence : sequences) {
    p.max_seqlen_q = std::max(p.max_seqlen_q, sequence.q_len);
  }
  p.max_blocks = paged->max_blocks;
  p.block_size = shape.block_size;
  p.num_heads = shape.num_heads;
  p.num_kv_heads = shape.num_kv_heads;
  p.head_dim = shape.head_dim;
  p.v_dim = shape.head_dim;
  p.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  return paged;
}

std::vector<double> Reference(const Paged& paged) {
  const Shape& shape = paged.shape;
  const int64_t dim = shape.head_dim;
  const int64_t row = shape.num_kv_heads * dim;
  std::vector<double> out(paged.q.size());
  for (size_t s = 0; s < paged.sequences.size(); ++s) {
    const auto [context, q_len] = paged.sequences[s];
    for (int32_t i = 0; i < q_len; ++i) {
      const int32_t keys = context - q_len + i + 1;
      for (int32_t h = 0; h < shape.num_heads; ++h) {
        const int64_t g = h / (shape.num_heads / shape.num_kv_heads);
        const int64_t at =
            (int64_t{paged.cu_seqlens[s] + i} * shape.num_heads + h) * dim;
        std::vector<double> scores(keys);
        double max = -INFINITY, sum = 0;
        for (int32_t j = 0; j < keys; ++j) {
          double dot = 0;
          for (int64_t d = 0; d < dim; ++d) {
            dot += double{paged.q[at + d]} * paged.k[s][j * row + g * dim + d];
          }
          scores[j] = dot * paged.params.scale;
          max = std::max(max, scores[j]);
        }
        for (double& score : scores) sum += score = std::exp(score - max);
        for (int32_t j = 0; j < keys; ++j) {
          for (int64_t d = 0; d < dim; ++d) {
            out[at + d] += scores[j] / sum * paged.v[s][j * row + g * dim + d];
          }
        }
      }
    }
  }
  return out;
}

class AttentionTest : public OpTest {
 protected:
  std::vector<float> Run(const Paged& paged) {
    std::vector<float> out(paged.q.size(), NAN);
    PagedAttentionParams params = paged.params;
    params.out = out.data();
    table_->PagedAttention(params);
    return out;
  }

  void ExpectMatches(const Paged& paged) {
    ExpectMatches(paged, paged.tolerance());
  }
  void ExpectMatches(const Paged& paged, double tolerance) {
    const std::vector<float> out = Run(paged);
    const std::vector<double> expected = Reference(paged);
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_NEAR(out[i], expected[i], tolerance) << i;
    }
  }
};

TEST_P(AttentionTest, ShapesOfHeads) {
  Random random(1);
  for (int32_t dim : {8, 10, 16, 64, 80, 128}) {
    for (int32_t group : {1, 3, 4}) {
      for (int32_t kv_heads : {1, 2}) {
        SCOPED_TRACE(testing::Message() << dim << " " << group << kv_heads);
        const Shape shape = {group * kv_heads, kv_heads, dim, 16, DType::kBF16};
        ExpectMatches(*MakePaged(shape, {{70, 1}, {9, 9}, {33, 4}}, random));
      }
    }
  }
}

TEST_P(AttentionTest, CacheTypesAndBlockSizes) {
  Random random(2);
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (int32_t block : {1, 5, 16}) {
      SCOPED_TRACE(testing::Message() << DTypeName(dtype) << " " << block);
      ExpectMatches(*MakePaged({6, 2, 16, block, dtype},
                               {{1, 1}, {130, 67}, {64, 1}, {65, 2}}, random));
    }
  }
}

// Tensor cores take rows whose length is a multiple of 16.
constexpr std::pair<DType, int32_t> kShortRows[] = {
    {DType::kF32, 8}, {DType::kBF16, 8}, {DType::kBF16, 16}};

TEST_P(AttentionTest, EveryContextLength) {
  Random random(3);
  for (const auto& [dtype, dim] : kShortRows) {
    for (int32_t context = 1; context <= 200; ++context) {
      SCOPED_TRACE(context);
      ExpectMatches(*MakePaged({3, 1, dim, 5, dtype},
                               {{context, 1}, {context, std::min(context, 23)}},
                               random));
    }
  }
}

// Contexts around multiples of the segments that threads share.
TEST_P(AttentionTest, SeveralSegments) {
  Random random(7);
  for (const auto& [dtype, dim] : kShortRows) {
    for (const int32_t context : {256, 257, 512, 700, 1025}) {
      SCOPED_TRACE(context);
      ExpectMatches(*MakePaged({3, 1, dim, 16, dtype},
                               {{context, 1}, {context, 300 % context}}, random,
                               2.0f));
    }
  }
}

// Values that are the first part of their keys, as in absorbed latent
// attention; more heads than one item takes.
TEST_P(AttentionTest, ValuesInsideKeys) {
  Random random(8);
  struct Case {
    DType dtype;
    int32_t heads, key_dim, v_dim;
  };
  std::vector<Case> cases = {{DType::kBF16, 3, 576, 512},
                             {DType::kBF16, 20, 576, 512},
                             {DType::kBF16, 40, 96, 72}};
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int32_t heads : {1, 5, 16, 70}) {
      cases.push_back({dtype, heads, 40, 33});
    }
  }
  for (const auto& [dtype, heads, key_dim, v_dim] : cases) {
    SCOPED_TRACE(testing::Message() << heads << " " << key_dim);
    const auto paged =
        MakePaged({heads, 1, key_dim, 16, dtype}, {{300, 1}, {80, 3}}, random);
    paged->v = paged->k;
    paged->params.v_cache = paged->params.k_cache;
    const std::vector<double> expected = Reference(*paged);
    paged->params.v_dim = v_dim;
    const std::vector<float> out = Run(*paged);
    for (int64_t row = 0; row < 4 * heads; ++row) {
      for (int64_t i = 0; i < v_dim; ++i) {
        ASSERT_NEAR(out[row * v_dim + i], expected[row * key_dim + i],
                    paged->tolerance())
            << row << " " << i;
      }
    }
  }
}

TEST_P(AttentionTest, LargeScores) {
  Random random(4);
  // A score near 100 is a sum of 64 products of f32, good to a few ulps of
  // 8e-6, and so are the logarithms of weights.
  ExpectMatches(
      *MakePaged({4, 1, 64, 16, DType::kF32}, {{200, 200}}, random, 30.0f),
      1e-4);
}

TEST_P(AttentionTest, NanStaysVisible) {
  Random random(6);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto paged = MakePaged({2, 1, 16, 16, dtype}, {{90, 2}}, random);
    paged->q[5] = NAN;
    const std::vector<float> out = Run(*paged);
    for (int i = 0; i < 64; ++i) EXPECT_EQ(std::isnan(out[i]), i < 16) << i;
  }
}

TEST_P(AttentionTest, RowDoesNotDependOnBatchChunkOrThreads) {
  Random random(5);
  const auto single = MakeSingle();
  for (const auto& [group, dim, dtype] : {std::tuple{1, 24, DType::kBF16},
                                          {3, 24, DType::kBF16},
                                          {4, 32, DType::kBF16},
                                          {4, 24, DType::kF16},
                                          {9, 24, DType::kF32},
                                          {1, 128, DType::kBF16},
                                          {2, 64, DType::kBF16}}) {
    // Long rows take long.
    const bool is_long = dim >= 64;
    std::vector<Sequence> sequences = {{300, 300}, {5, 5}};
    if (!is_long) sequences.insert(sequences.end(), {{75, 75}, {64, 64}});
    const auto paged =
        MakePaged({2 * group, 2, dim, 16, dtype}, sequences, random);
    const std::vector<float> whole = Run(*paged);
    const int64_t row = int64_t{2 * group} * dim;
    // Each sequence alone, in chunks of several sizes, by one thread or more.
    for (size_t s = 0; s < sequences.size(); ++s) {
      for (int32_t chunk : is_long ? std::vector<int32_t>{13, 90}
                                   : std::vector<int32_t>{1, 7, 64, 300}) {
        std::vector<float> out(whole.size());
        const int32_t start = paged->cu_seqlens[s];
        const int32_t length = paged->cu_seqlens[s + 1] - start;
        // Tokens one by one take long: only the last.
        const int32_t begin = chunk > 1 ? 0 : std::max(length - 60, 0);
        for (int32_t first = begin; first < length; first += chunk) {
          const int32_t context = std::min(first + chunk, length);
          const int32_t cu_seqlens[] = {0, context - first};
          PagedAttentionParams params = paged->params;
          params.q += (start + first) * row;
          params.out = out.data() + (start + first) * row;
          params.cu_seqlens_q = cu_seqlens;
          params.context_lens = &context;
          params.block_tables += s * params.max_blocks;
          params.num_seqs = 1;
          params.max_seqlen_q = context - first;
          (first % 2 == 0 ? single : table_)->PagedAttention(params);
        }
        const int64_t at = (start + begin) * row;
        ASSERT_EQ(std::memcmp(&out[at], &whole[at],
                              (length - begin) * row * sizeof(float)),
                  0)
            << "group " << group << " sequence " << s << " chunk " << chunk;
      }
    }
  }
}

// The caches of `paged` again, in tiles: written as steps would, `step` tokens
// of every sequence at a time.
void WriteTiles(const Paged& paged, int32_t step, KernelTable& table,
                std::vector<uint8_t>* k_bytes, std::vector<uint8_t>* v_bytes) {
  const Shape& shape = paged.shape;
  const int64_t row = int64_t{shape.num_kv_heads} * shape.head_dim;
  k_bytes->assign(paged.k_bytes.size(), 0xff);
  v_bytes->assign(paged.v_bytes.size(), 0xff);
  const int64_t num_slots = static_cast<int64_t>(k_bytes->size()) / row / 2;
  for (int32_t first = 0;; first += step) {
    std::vector<float> k, v;
    std::vector<int64_t> slots;
    for (size_t s = 0; s < paged.sequences.size(); ++s) {
      const int32_t end = std::min(paged.sequences[s].context, first + step);
      for (int32_t j = first; j < end; ++j) {
        const int32_t id =
            paged.tables[s * paged.max_blocks + j / shape.block_size];
        slots.push_back(int64_t{id} * shape.block_size + j % shape.block_size);
        k.insert(k.end(), &paged.k[s][j * row], &paged.k[s][j * row] + row);
        v.insert(v.end(), &paged.v[s][j * row], &paged.v[s][j * row] + row);
      }
    }
    if (slots.empty()) return;
    CacheWriteParams params;
    params.slot_mapping = slots.data();
    params.num_tokens = static_cast<int64_t>(slots.size());
    params.row_width = params.row_stride = row;
    params.head_dim = shape.head_dim;
    params.rows = k.data();
    params.cache = {k_bytes->data(), DType::kBF16, {num_slots, row}};
    params.order = CacheOrder::kKeyTiles;
    table.CacheWrite(params);
    params.rows = v.data();
    params.cache.data = v_bytes->data();
    params.order = CacheOrder::kValueTiles;
    table.CacheWrite(params);
  }
}

// Bit for bit what caches in rows give; what is not written is not seen.
TEST_P(AttentionTest, CachesInTiles) {
  if (!table_->has_cache_tiles()) {
    // Products of pairs read them, and nothing else does.
    const CpuOps* ops = GetParam().cpu_ops;
    EXPECT_TRUE(ops == nullptr || !ops->has_pairs);
    return;
  }
  Random random(9);
  const auto expect_same = [&](const Paged& paged, int32_t step) {
    std::vector<uint8_t> k_bytes, v_bytes;
    WriteTiles(paged, step, *table_, &k_bytes, &v_bytes);
    PagedAttentionParams params = paged.params;
    std::vector<float> out(paged.q.size(), NAN);
    params.k_cache.data = k_bytes.data();
    params.v_cache.data = v_bytes.data();
    params.tiled = true;
    params.out = out.data();
    table_->PagedAttention(params);
    const std::vector<float> expected = Run(paged);
    ASSERT_EQ(
        std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)),
        0);
  };
  for (const auto& [heads, kv_heads, dim, block] :
       {std::tuple{3, 3, 32, 16}, {9, 3, 64, 16}, {8, 2, 128, 48}}) {
    const Shape shape = {heads, kv_heads, dim, block, DType::kBF16};
    for (const int32_t step : {1, 5, 16, 400}) {
      SCOPED_TRACE(testing::Message() << dim << " " << step);
      expect_same(
          *MakePaged(shape, {{1, 1}, {15, 1}, {16, 4}, {17, 17}, {300, 170}},
                     random),
          step);
    }
  }
  for (int32_t context = 1; context <= 150; ++context) {
    SCOPED_TRACE(context);
    expect_same(
        *MakePaged({6, 2, 32, 16, DType::kBF16},
                   {{context, 1}, {context, std::min(context, 23)}}, random),
        7);
  }
}

INSTANTIATE_OP_TEST(AttentionTest);

}  // namespace
}  // namespace shoal
