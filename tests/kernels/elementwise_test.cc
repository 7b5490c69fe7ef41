#include <gmock/gmock.h>

#include <limits>

#include "tests/kernels/op_test_support.h"

namespace shoal {
namespace {

const int64_t kWidths[] = {1, 3, 7, 8, 15, 31, 33, 63, 576};

class ElementwiseTest : public OpTest {};

TEST_P(ElementwiseTest, RmsNorm) {
  Random random(1);
  for (int64_t width : kWidths) {
    for (bool weighted : {true, false}) {
      const int64_t rows = 5, stride = width + 2;
      const std::vector<float> in = random.Normals(rows * stride, 3.0f);
      const std::vector<float> weight = random.Normals(width);
      std::vector<float> out(rows * width, NAN), in_place = in;
      RmsNormParams params = {in.data(),  weighted ? weight.data() : nullptr,
                              out.data(), rows,
                              width,      stride,
                              width,      1e-5f};
      table_->RmsNorm(params);
      params.in = params.out = in_place.data();
      params.out_stride = stride;
      table_->RmsNorm(params);
      for (int64_t r = 0; r < rows; ++r) {
        const float* x = &in[r * stride];
        const double mean = Norm(x, width) * Norm(x, width) / width;
        for (int64_t i = 0; i < width; ++i) {
          const double expected =
              x[i] / std::sqrt(mean + 1e-5) * (weighted ? weight[i] : 1.0);
          ASSERT_NEAR(out[r * width + i], expected, 1e-5) << width;
          ASSERT_EQ(in_place[r * stride + i], out[r * width + i]);
        }
        EXPECT_EQ(in_place[r * stride + width], x[width]);  // between rows
      }
    }
  }
}

TEST_P(ElementwiseTest, LayerNorm) {
  Random random(12);
  for (int64_t width : kWidths) {
    const int64_t rows = 4;
    std::vector<float> in = random.Normals(rows * width, 3.0f);
    for (float& x : in) x += 5.0f;
    const std::vector<float> weight = random.Normals(width);
    const std::vector<float> bias = random.Normals(width);
    std::vector<float> out(rows * width, NAN);
    table_->LayerNorm({in.data(), weight.data(), bias.data(), out.data(), rows,
                       width, 1e-6f});
    for (int64_t r = 0; r < rows; ++r) {
      const float* x = &in[r * width];
      double mean = 0, variance = 0;
      for (int64_t i = 0; i < width; ++i) mean += x[i] / double(width);
      for (int64_t i = 0; i < width; ++i) {
        variance += (x[i] - mean) * (x[i] - mean) / double(width);
      }
      for (int64_t i = 0; i < width; ++i) {
        const double expected =
            (x[i] - mean) / std::sqrt(variance + 1e-6) * weight[i] + bias[i];
        ASSERT_NEAR(out[r * width + i], expected, 2e-4) << width;
      }
    }
  }
}

TEST_P(ElementwiseTest, Rope) {
  Random random(2);
  for (RopeLayout layout : {RopeLayout::kHalfSplit, RopeLayout::kInterleaved}) {
    for (int32_t rotary : {2, 6, 16, 34, 64}) {
      for (bool inverse : {false, true}) {
        const int64_t tokens = 4, heads = 3, dim = rotary + 5, offset = 3;
        const int64_t stride = heads * dim + 7, half = rotary / 2;
        const std::vector<float> x = random.Normals(tokens * stride);
        const std::vector<float> angles = random.Normals(tokens * half);
        std::vector<float> cos, sin, out = x;
        for (float angle : angles) {
          cos.push_back(1.5f * std::cos(angle));
          sin.push_back(1.5f * std::sin(angle));
        }
        std::vector<double> expected(x.begin(), x.end());
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t h = 0; h < heads; ++h) {
            for (int64_t i = 0; i < half; ++i) {
              const bool split = layout == RopeLayout::kHalfSplit;
              const int64_t at = t * stride + h * dim + offset;
              const int64_t a = at + (split ? i : 2 * i);
              const int64_t b = at + (split ? i + half : 2 * i + 1);
              const double c = cos[t * half + i];
              const double s = sin[t * half + i] * (inverse ? -1.0 : 1.0);
              expected[a] = x[a] * c - x[b] * s;
              expected[b] = x[b] * c + x[a] * s;
            }
          }
        }
        RopeParams params;
        params.x = out.data();
        params.cos = cos.data();
        params.sin = sin.data();
        params.num_tokens = tokens;
        params.num_heads = heads;
        params.head_dim = dim;
        params.rotary_dim = rotary;
        params.offset = offset;
        params.token_stride = stride;
        params.layout = layout;
        params.inverse = inverse;
        table_->Rope(params);
        for (size_t i = 0; i < out.size(); ++i) {
          ASSERT_NEAR(out[i], expected[i], 2e-6) << rotary << " " << i;
        }
      }
    }
  }
}

// Also the accuracy of the exponential: silu(-x) for large x is -x e^-x.
TEST_P(ElementwiseTest, SiluMul) {
  Random random(3);
  for (float limit : {0.0f, 2.0f}) {
    for (int64_t width : kWidths) {
      const int64_t tokens = 3;
      const std::vector<float> gate = random.Normals(tokens * width, 4.0f);
      const std::vector<float> up = random.Normals(tokens * width, 4.0f);
      std::vector<float> out = gate;  // aliases gate
      table_->SiluMul(
          {out.data(), up.data(), out.data(), tokens, width, limit});
      for (size_t i = 0; i < out.size(); ++i) {
        double g = gate[i], u = up[i];
        if (limit > 0) {
          g = std::min<double>(g, limit);
          u = std::clamp<double>(u, -limit, limit);
        }
        const double expected = g / (1 + std::exp(-g)) * u;
        ASSERT_NEAR(out[i], expected, 1e-6 * std::abs(expected) + 1e-37);
      }
    }
  }
}

TEST_P(ElementwiseTest, SiluOverTheWholeRange) {
  std::vector<float> gate;
  for (float x = -86.5f; x < 100.0f; x += 0.01f) gate.push_back(x);
  const std::vector<float> up(gate.size(), 1.0f);
  std::vector<float> out(gate.size());
  const auto width = static_cast<int64_t>(gate.size());
  table_->SiluMul({gate.data(), up.data(), out.data(), 1, width, 0});
  for (size_t i = 0; i < gate.size(); ++i) {
    const double x = gate[i];
    const double expected = x / (1 + std::exp(-x));
    ASSERT_NEAR(out[i], expected, 6e-7 * std::abs(expected)) << x;
  }
  const float extreme[] = {-1000.0f, 1000.0f, -INFINITY, INFINITY, 0.0f, NAN};
  float results[6];
  table_->SiluMul({extreme, up.data(), results, 1, 6, 0});
  EXPECT_NEAR(results[0], 0.0f, 1e-30f);
  EXPECT_EQ(results[1], 1000.0f);
  EXPECT_EQ(results[3], INFINITY);
  EXPECT_EQ(results[4], 0.0f);
  EXPECT_TRUE(std::isnan(results[5]));
}

// The bits of the ops that it stands for.
TEST_P(ElementwiseTest, HeadsWriteIsNormRopeAndCacheWrite) {
  Random random(6);
  const int64_t tokens = 5, heads = 6, kv_heads = 2, slots = 16;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t head_dim : {8, 64, 96, 128}) {
      for (const bool with_norm : {false, true}) {
        const int64_t width = kv_heads * head_dim;
        const int64_t bytes = slots * width * DTypeBytes(dtype, 1);
        const auto q = random.Normals(tokens * heads * head_dim);
        const auto k = random.Normals(tokens * width);
        const auto v = random.Normals(tokens * width);
        const auto norms = random.Normals(2 * head_dim);
        const auto angles = random.Normals(tokens * head_dim);
        const std::vector<int64_t> slot_mapping = {3, -1, 15, 0, 7};
        struct Result {
          std::vector<float> q, k;
          std::vector<uint8_t> k_cache, v_cache;
        };
        Result results[2];
        for (Result& result : results) {
          result = {q, k, std::vector<uint8_t>(bytes, 1),
                    std::vector<uint8_t>(bytes, 2)};
          HeadsWriteParams params;
          params.q = result.q.data();
          params.k = result.k.data();
          params.v = v.data();
          if (with_norm) {
            params.q_norm = norms.data();
            params.k_norm = norms.data() + head_dim;
          }
          params.cos = angles.data();
          params.sin = angles.data() + tokens * head_dim / 2;
          params.slot_mapping = slot_mapping.data();
          params.k_cache =
              TensorView(result.k_cache.data(), dtype, {slots, width});
          params.v_cache =
              TensorView(result.v_cache.data(), dtype, {slots, width});
          params.num_tokens = tokens;
          params.num_heads = heads;
          params.num_kv_heads = kv_heads;
          params.head_dim = static_cast<int32_t>(head_dim);
          params.layout = head_dim == 64 ? RopeLayout::kInterleaved
                                         : RopeLayout::kHalfSplit;
          params.eps = 1e-6f;
          if (&result == results) {
            table_->KernelTable::HeadsWrite(params);
          } else {
            table_->HeadsWrite(params);
          }
        }
        EXPECT_EQ(results[1].q, results[0].q) << head_dim;
        EXPECT_EQ(results[1].k_cache, results[0].k_cache) << head_dim;
        EXPECT_EQ(results[1].v_cache, results[0].v_cache) << head_dim;
      }
    }
  }
}

TEST_P(ElementwiseTest, CacheWriteRoundsLikeTheReference) {
  Random random(4);
  const float inf = std::numeric_limits<float>::infinity();
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (int64_t width : {1, 7, 24, 67}) {
      const int64_t tokens = 6, stride = width + 3, slots = 9;
      std::vector<float> rows = random.Normals(tokens * stride, 1000.0f);
      const float special[] = {NAN,    inf,       -inf,    0.0f,     -0.0f,
                               1e-8f,  6e-8f,     3e-7f,   -5.9e-5f, 6.1e-5f,
                               65504,  65519.99f, 65520,   -1e9f,    3.4e38f,
                               1e-40f, 2.0e-39f,  2048.5f, 2049.5f,  3e-8f};
      for (size_t i = 0; i < rows.size() && width > 1; i += 3) {
        rows[i] = special[i / 3 % 20];
      }
      const int64_t mapping[] = {4, -1, 0, 8, 2, 7};
      const int64_t row_bytes = DTypeBytes(dtype, width);
      std::vector<uint8_t> cache(slots * row_bytes, 0xab), expected = cache;
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t i = 0; i < width && mapping[t] >= 0; ++i) {
          const float x = rows[t * stride + i];
          uint8_t* place = expected.data() + mapping[t] * row_bytes;
          if (dtype == DType::kF32) {
            std::memcpy(place + 4 * i, &x, 4);
          } else {
            const uint16_t half =
                dtype == DType::kF16 ? F32ToF16(x) : F32ToBF16(x);
            std::memcpy(place + 2 * i, &half, 2);
          }
        }
      }
      CacheWriteParams params;
      params.rows = rows.data();
      params.slot_mapping = mapping;
      params.num_tokens = tokens;
      params.row_width = width;
      params.row_stride = stride;
      params.cache = {cache.data(), dtype, {slots, width}};
      table_->CacheWrite(params);
      EXPECT_EQ(cache, expected) << DTypeName(dtype) << " " << width;
    }
  }
}

// By its formula, in double.
TEST_P(ElementwiseTest, LatentWrite) {
  Random random(21);
  constexpr int64_t kTokens = 5, kHeads = 3, kNope = 10, kSlots = 8;
  const int64_t mapping[] = {6, -1, 0, 7, 3};
  for (const auto layout : {RopeLayout::kHalfSplit, RopeLayout::kInterleaved}) {
    for (const auto& [rank, rope] : {std::pair<int64_t, int64_t>{24, 8},
                                     std::pair<int64_t, int64_t>{70, 16}}) {
      const int64_t row = rank + rope, q_dim = kNope + rope, half = rope / 2;
      std::vector<float> q = random.Normals(kTokens * kHeads * q_dim);
      // The heads' rotated values, apart and with others around them.
      const bool apart = rank == 24;
      std::vector<float> q_rope(kTokens * kHeads * (rope + 5) + 3, 4.0f);
      std::vector<float> latent = random.Normals(kTokens * row, 2.0f);
      const std::vector<float> norm = random.Normals(rank);
      const std::vector<float> cos = random.Normals(kTokens * half);
      const std::vector<float> sin = random.Normals(kTokens * half);
      std::vector<float> cache(kSlots * row, 5.0f);
      std::vector<double> expected_q(q.begin(), q.end());
      std::vector<double> expected(cache.begin(), cache.end());
      const auto rotate = [&](const float* x, int64_t token, double* out) {
        for (int64_t i = 0; i < half; ++i) {
          const bool split = layout == RopeLayout::kHalfSplit;
          const int64_t a = split ? i : 2 * i, b = split ? i + half : 2 * i + 1;
          const double c = cos[token * half + i], s = sin[token * half + i];
          out[a] = x[a] * c - x[b] * s;
          out[b] = x[b] * c + x[a] * s;
        }
      };
      for (int64_t t = 0; t < kTokens; ++t) {
        for (int64_t h = 0; h < kHeads; ++h) {
          const int64_t at = (t * kHeads + h) * q_dim + kNope;
          rotate(&q[at], t, &expected_q[at]);
        }
        if (mapping[t] < 0) continue;
        const float* x = &latent[t * row];
        double* out = &expected[mapping[t] * row];
        const double mean = Norm(x, rank) * Norm(x, rank) / double(rank);
        for (int64_t i = 0; i < rank; ++i) {
          out[i] = x[i] / std::sqrt(mean + 1e-6) * norm[i];
        }
        rotate(x + rank, t, out + rank);
      }
      LatentWriteParams params;
      params.q = q.data();
      params.q_rope = apart ? q_rope.data() + 3 : nullptr;
      params.q_rope_stride = rope + 5;
      params.latent = latent.data();
      params.norm = norm.data();
      params.cos = cos.data();
      params.sin = sin.data();
      params.slot_mapping = mapping;
      params.cache = {cache.data(), DType::kF32, {kSlots, row}};
      params.num_tokens = kTokens;
      params.num_heads = kHeads;
      params.q_dim = static_cast<int32_t>(q_dim);
      params.rope_dim = static_cast<int32_t>(rope);
      params.layout = layout;
      params.eps = 1e-6f;
      table_->LatentWrite(params);
      for (size_t i = 0; i < q.size(); ++i) {
        ASSERT_NEAR(q[i], expected_q[i], 1e-5) << i;
      }
      for (size_t i = 0; i < q_rope.size(); ++i) {
        const int64_t at = static_cast<int64_t>(i) - 3;
        const bool copied = apart && at >= 0 && at % (rope + 5) < rope;
        ASSERT_EQ(q_rope[i],
                  copied ? q[at / (rope + 5) * q_dim + kNope + at % (rope + 5)]
                         : 4.0f)
            << i;
      }
      for (size_t i = 0; i < cache.size(); ++i) {
        ASSERT_NEAR(cache[i], expected[i], 1e-5) << i;
      }
    }
  }
}

TEST_P(ElementwiseTest, AddsAndZeroes) {
  Random random(9);
  for (const int64_t n : {1, 7, 64, 1000}) {
    const auto in = random.Normals(n + 1);
    auto out = random.Normals(n + 1);
    auto expected = out;
    for (int64_t i = 0; i < n; ++i) expected[i] += in[i];
    table_->Add(in.data(), n, out.data());
    EXPECT_EQ(out, expected);
    table_->Zero(out.data(), n);
    std::fill_n(expected.begin(), n, 0.0f);
    EXPECT_EQ(out, expected);
  }
}

TEST_P(ElementwiseTest, AllocateGivesAlignedZeroes) {
  for (int64_t bytes : {1, 100, 5 << 20}) {
    const auto buffer = table_->Allocate(bytes);
    ASSERT_TRUE(buffer.ok());
    EXPECT_GE((*buffer)->bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>((*buffer)->data()) % 64, 0u);
    std::vector<uint8_t> data(bytes, 0xff);
    ASSERT_TRUE(table_->Download((*buffer)->data(), bytes, data.data()).ok());
    for (int64_t i = 0; i < bytes; ++i) ASSERT_EQ(data[i], 0);
  }
  EXPECT_EQ(table_->Allocate(int64_t{1} << 60).status().code(),
            absl::StatusCode::kResourceExhausted);
}

INSTANTIATE_OP_TEST(ElementwiseTest);

}  // namespace
}  // namespace shoal
