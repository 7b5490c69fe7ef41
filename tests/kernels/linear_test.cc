#include <gmock/gmock.h>

#include <optional>

#include "absl/status/status.h"
#include "tests/kernels/op_test_support.h"

namespace shoal {
namespace {

const DType kFloatTypes[] = {DType::kF32, DType::kF16, DType::kBF16};
const DType kTileTypes[] = {DType::kQ4_0,   DType::kQ4_1,  DType::kQ5_0,
                            DType::kQ5_1,   DType::kQ8_0,  DType::kQ3_K,
                            DType::kQ4_K,   DType::kQ5_K,  DType::kQ6_K,
                            DType::kIQ4_NL, DType::kIQ4_XS};
const DType kStoredTypes[] = {DType::kF8E4M3, DType::kF8E5M2, DType::kF4E2M1,
                              DType::kQ2_K, DType::kMXFP4};
// Those with tiles of pairs, of FP4 with E8M0 scales only.
const DType kPairTypes[] = {DType::kBF16, DType::kF8E4M3, DType::kF4E2M1};

std::vector<DType> AllTypes() {
  std::vector<DType> types;
  for (const DType type : kFloatTypes) types.push_back(type);
  for (const DType type : kTileTypes) types.push_back(type);
  for (const DType type : kStoredTypes) types.push_back(type);
  return types;
}

// Row lengths for a type: awkward ones where its blocks allow.
std::vector<int64_t> Widths(DType dtype) {
  switch (GetDTypeInfo(dtype).block_elements) {
    case 1:
      return {1, 3, 7, 31, 33, 63, 576};
    case 2:
      return {2, 34, 576};
    case 32:
      return {32, 96, 576, 1536};
    default:
      return {256, 768, 1536};
  }
}

// Relative to the norms, what rounding a sub-block's scale and minimum to f16
// costs in the types whose blocks hold 256 values.
double PackingError(DType dtype) {
  return GetDTypeInfo(dtype).block_elements == 256 ? 5e-4 : 0;
}

class LinearTest : public OpTest {
 protected:
  // Whether the table rounds inputs of BF16, FP8 and FP4 weights to bf16.
  bool RoundsToPairs() const {
    const CpuOps* ops = GetParam().cpu_ops;
    return ops != nullptr && ops->has_pairs;
  }

  std::unique_ptr<PackedMatrix> Pack(const StoredWeight& weight,
                                     Precision precision) {
    auto packed = table_->Pack(weight.view, precision);
    EXPECT_TRUE(packed.ok()) << packed.status();
    return *std::move(packed);
  }

  std::vector<float> Run(const PackedMatrix& weight,
                         const std::vector<float>& in,
                         const float* bias = nullptr) {
    const int64_t tokens = in.size() / weight.in_features();
    std::vector<float> out(tokens * weight.out_features(), NAN);
    const LinearPart part = {&weight, bias, out.data(), false};
    table_->Linear({in.data(), tokens, weight.in_features(), {&part, 1}});
    return out;
  }

  // `in` as the table rounds it: only the CPU's do.
  std::vector<float> Rounded(const std::vector<float>& in, int64_t width) {
    if (GetParam().cpu_ops == nullptr) return in;
    const int64_t tokens = in.size() / width;
    const std::vector<RoundedGroup> groups =
        RoundedByToken(*GetParam().cpu_ops, in, width);
    std::vector<float> rounded(in.size());
    for (int64_t i = 0; i < tokens * width; ++i) {
      const RoundedGroup& group = groups[i / kGroup];
      rounded[i] = group.scale * group.values[i % kGroup];
    }
    return rounded;
  }
};

std::vector<double> Reference(const StoredWeight& weight,
                              const std::vector<float>& in) {
  const std::vector<float> w = weight.Dequantized();
  const int64_t n = weight.view.in_features();
  const int64_t rows = weight.view.out_features();
  const int64_t tokens = in.size() / n;
  std::vector<double> out(tokens * rows);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (int64_t i = 0; i < n; ++i)
        sum += double{in[t * n + i]} * w[r * n + i];
      out[t * rows + r] = sum;
    }
  }
  return out;
}

// Every value within `tolerance` of the norms of its two rows.
void ExpectClose(const std::vector<float>& out, const StoredWeight& weight,
                 const std::vector<float>& in, double tolerance) {
  const std::vector<double> expected = Reference(weight, in);
  const std::vector<float> w = weight.Dequantized();
  const int64_t n = weight.view.in_features();
  const int64_t rows = weight.view.out_features();
  for (size_t i = 0; i < out.size(); ++i) {
    const double bound = tolerance * Norm(in.data() + i / rows * n, n) *
                         Norm(w.data() + i % rows * n, n);
    ASSERT_NEAR(out[i], expected[i], bound)
        << "token " << i / rows << " row " << i % rows;
  }
}

TEST_P(LinearTest, ExactMatchesDequantizedProduct) {
  Random random(1);
  for (DType dtype : AllTypes()) {
    for (int64_t width : Widths(dtype)) {
      for (int64_t rows : {1, 3, 17, 40}) {
        SCOPED_TRACE(testing::Message()
                     << DTypeName(dtype) << " " << rows << "x" << width);
        const StoredWeight weight = MakeWeight(dtype, rows, width, random);
        const auto packed = Pack(weight, Precision::kExact);
        EXPECT_EQ(packed->source_dtype(), dtype);
        for (int64_t tokens : {1, 5}) {
          const std::vector<float> in = random.Normals(tokens * width);
          ExpectClose(Run(*packed, in), weight, in, 1e-5);
        }
      }
    }
  }
}

TEST_P(LinearTest, FastMatchesRoundedActivations) {
  Random random(2);
  for (DType dtype : kTileTypes) {
    for (int64_t width : Widths(dtype)) {
      for (int64_t rows : {1, 7, 17, 40}) {
        SCOPED_TRACE(testing::Message()
                     << DTypeName(dtype) << " " << rows << "x" << width);
        const StoredWeight weight = MakeWeight(dtype, rows, width, random);
        const auto packed = Pack(weight, Precision::kFast);
        EXPECT_FALSE(packed->borrows_source());
        for (int64_t tokens : {1, 3, 14}) {
          const std::vector<float> in = random.Normals(tokens * width);
          ExpectClose(Run(*packed, in), weight, Rounded(in, width),
                      1e-5 + PackingError(dtype) + GetParam().fast_error);
        }
      }
    }
  }
}

// BF16, FP8 and FP4: inputs are rounded where the instruction set has products
// of bf16, and taken as they are elsewhere.
TEST_P(LinearTest, PairTypesMatchWhatInputsBecome) {
  const bool pairs = RoundsToPairs();
  Random random(10);
  for (DType dtype : kPairTypes) {
    for (int64_t width : Widths(dtype)) {
      for (int64_t rows : {1, 15, 33, 140}) {
        SCOPED_TRACE(testing::Message()
                     << DTypeName(dtype) << " " << rows << "x" << width);
        StoredWeight weight = MakeWeight(dtype, rows, width, random);
        if (dtype == DType::kF4E2M1) UsePowerScales(&weight, random);
        const auto packed = Pack(weight, Precision::kFast);
        EXPECT_FALSE(pairs && packed->borrows_source());
        for (int64_t tokens : {1, 3, 12, 14}) {
          const std::vector<float> in = random.Normals(tokens * width);
          std::vector<float> rounded = in;
          for (float& x : rounded) {
            if (pairs) x = BF16ToF32(F32ToBF16(x));
          }
          ExpectClose(Run(*packed, in), weight, rounded,
                      1e-5 + GetParam().fast_error);
        }
      }
    }
  }
}

// Every code of FP8 and FP4, alone and with many tokens, times one.
TEST_P(LinearTest, ScaledCodesAreExact) {
  Random random(11);
  for (DType dtype : {DType::kF8E4M3, DType::kF4E2M1}) {
    SCOPED_TRACE(DTypeName(dtype));
    const int64_t width = 256, rows = 34;
    StoredWeight weight = MakeWeight(dtype, rows, width, random);
    UsePowerScales(&weight, random);
    for (size_t i = 0; i < weight.bytes.size(); ++i) {
      const auto code = static_cast<uint8_t>(i + i / width);
      const bool nan = dtype == DType::kF8E4M3 && (code & 0x7f) == 0x7f;
      weight.bytes[i] = nan ? 0x80 : code;
    }
    const auto packed = Pack(weight, Precision::kFast);
    EXPECT_FALSE(RoundsToPairs() && packed->borrows_source());
    const std::vector<float> expected = weight.Dequantized();
    std::vector<float> ones(width * width);
    for (int64_t i = 0; i < width; ++i) ones[i * width + i] = 1;
    const std::vector<float> all = Run(*packed, ones);
    for (int64_t i = 0; i < width; ++i) {
      const std::vector<float> one = Run(
          *packed, {ones.begin() + i * width, ones.begin() + (i + 1) * width});
      for (int64_t r = 0; r < rows; ++r) {
        ASSERT_EQ(all[i * rows + r], expected[r * width + i]) << r << " " << i;
        ASSERT_EQ(one[r], expected[r * width + i]) << r << " " << i;
      }
    }
  }
}

// What the tiles of pairs have no form for is multiplied all the same.
TEST_P(LinearTest, UncommonScalesAreExact) {
  Random random(12);
  const int64_t width = 256, rows = 40, tokens = 13;
  const std::vector<float> in = random.Normals(tokens * width);
  StoredWeight thin = MakeWeight(DType::kF8E4M3, rows, width, random);
  thin.scales = random.Normals(rows * 2, 0.01f);
  thin.view.scale_rows = 1;
  thin.view.scales = {thin.scales.data(), DType::kF32, {rows, 2}};
  const double tolerance = 1e-5 + GetParam().fast_error;
  ExpectClose(Run(*Pack(thin, Precision::kFast), in), thin, in, tolerance);
  StoredWeight zero = MakeWeight(DType::kF4E2M1, rows, width, random);
  UsePowerScales(&zero, random);
  zero.exponents[5] = 0;  // a subnormal scale
  ExpectClose(Run(*Pack(zero, Precision::kFast), in), zero, in, tolerance);
  StoredWeight bare = MakeWeight(DType::kF8E4M3, rows, 33, random);
  bare.view.scales = {};  // and a row that ends within a step
  bare.view.scale_rows = bare.view.scale_cols = 0;
  const auto some = random.Normals(3 * 33);
  ExpectClose(Run(*Pack(bare, Precision::kFast), some), bare, some, 0.02);
}

TEST_P(LinearTest, NanWeightsGiveNan) {
  Random random(13);
  const int64_t width = 96, rows = 40;
  for (DType dtype : kPairTypes) {
    StoredWeight weight = MakeWeight(dtype, rows, width, random);
    if (dtype == DType::kF4E2M1) {
      UsePowerScales(&weight, random);
      weight.exponents[7 * (width / 32) + 1] = 0xff;
    } else {
      const int64_t bytes = DTypeBytes(dtype, 1);
      std::memset(&weight.bytes[(7 * width + 40) * bytes], 0xff, bytes);
    }
    const std::vector<float> out =
        Run(*Pack(weight, Precision::kFast), random.Normals(2 * width));
    for (int64_t i = 0; i < 2 * rows; ++i) {
      ASSERT_EQ(std::isnan(out[i]), i % rows == 7) << DTypeName(dtype);
    }
  }
}

// Numbers of tokens about the sizes of tiles, of rows and of features, with
// outputs that lie apart.
TEST_P(LinearTest, FastMatchesAboutTileSizes) {
  Random random(14);
  for (const DType dtype : {DType::kBF16, DType::kQ8_0, DType::kF8E4M3}) {
    const int64_t width = 96 + 32 * (dtype == DType::kQ8_0);
    for (const int64_t rows : {127, 130}) {
      const StoredWeight weight = MakeWeight(dtype, rows, width, random);
      const auto packed = Pack(weight, Precision::kFast);
      for (const int64_t tokens : {32, 33, 64, 65, 129}) {
        SCOPED_TRACE(testing::Message() << DTypeName(dtype) << " " << rows
                                        << " tokens " << tokens);
        const std::vector<float> in = random.Normals(tokens * width);
        const int64_t stride = rows + 3;
        std::vector<float> apart(tokens * stride, 7.0f);
        const LinearPart part = {packed.get(), nullptr, apart.data(), false,
                                 stride};
        table_->Linear({in.data(), tokens, width, {&part, 1}});
        std::vector<float> out;
        for (int64_t t = 0; t < tokens; ++t) {
          const auto row = apart.begin() + t * stride;
          out.insert(out.end(), row, row + rows);
          if (t + 1 < tokens) {
            EXPECT_EQ(row[rows], 7.0f);
          }
        }
        const bool rounds = dtype == DType::kQ8_0 || RoundsToPairs();
        ExpectClose(out, weight, in,
                    rounds ? 0.02 : 1e-5 + GetParam().fast_error);
      }
    }
  }
}

TEST_P(LinearTest, FastIsNearExact) {
  Random random(3);
  for (DType dtype : AllTypes()) {
    SCOPED_TRACE(DTypeName(dtype));
    const int64_t width = 1536, rows = 96, tokens = 4;
    const StoredWeight weight = MakeWeight(dtype, rows, width, random);
    const std::vector<float> in = random.Normals(tokens * width);
    const std::vector<float> out = Run(*Pack(weight, Precision::kFast), in);
    const std::vector<double> expected = Reference(weight, in);
    double error = 0, norm = 0;
    for (size_t i = 0; i < out.size(); ++i) {
      error += (out[i] - expected[i]) * (out[i] - expected[i]);
      norm += expected[i] * expected[i];
    }
    EXPECT_LT(std::sqrt(error / norm), 0.015);
  }
}

// The largest codes of every type against the largest activations: sums of 16
// bits must not overflow.
TEST_P(LinearTest, ExtremeCodes) {
  Random random(4);
  for (DType dtype : kTileTypes) {
    for (int pattern = 0; pattern < 3; ++pattern) {
      SCOPED_TRACE(testing::Message() << DTypeName(dtype) << " " << pattern);
      const int64_t width = 256, rows = 9;
      StoredWeight weight = MakeWeight(dtype, rows, width, random);
      const DTypeInfo& info = GetDTypeInfo(dtype);
      const uint8_t fill[] = {0xff, 0x00, 0x80};
      const std::vector<uint8_t> scaled = weight.bytes;
      std::fill(weight.bytes.begin(), weight.bytes.end(), fill[pattern]);
      std::vector<int> halves = HalfOffsets(dtype);
      if (halves.empty()) halves = {0};  // Q4_0, Q8_0
      if (dtype == DType::kQ4_1 || dtype == DType::kQ4_K) halves = {0, 2};
      for (size_t at = 0; at < weight.bytes.size(); at += info.block_bytes) {
        for (int offset : halves) {
          std::memcpy(&weight.bytes[at + offset], &scaled[at + offset], 2);
        }
      }
      const auto packed = Pack(weight, Precision::kFast);
      for (float sign : {1.0f, -1.0f}) {
        const std::vector<float> in(5 * width, 2.0f * sign);
        ExpectClose(Run(*packed, in), weight, Rounded(in, width),
                    1e-5 + 4 * PackingError(dtype) + GetParam().fast_error);
      }
    }
  }
}

TEST_P(LinearTest, PartsShareInputWithBiasAndAccumulate) {
  Random random(5);
  const int64_t width = 256, tokens = 6;
  const DType types[] = {DType::kQ4_0, DType::kBF16, DType::kQ6_K,
                         DType::kMXFP4};
  const int64_t rows[] = {33, 5, 16, 9};
  const std::vector<float> in = random.Normals(tokens * width);
  std::vector<StoredWeight> weights;
  std::vector<std::unique_ptr<PackedMatrix>> packed;
  std::vector<std::vector<float>> biases, outs, expected;
  std::vector<LinearPart> parts;
  for (int p = 0; p < 4; ++p) {
    weights.push_back(MakeWeight(types[p], rows[p], width, random));
    packed.push_back(Pack(weights[p], Precision::kFast));
    biases.push_back(random.Normals(rows[p]));
    outs.push_back(random.Normals(tokens * rows[p]));
    expected.push_back(Run(*packed[p], in));
    const bool accumulate = p % 2 == 1, biased = p != 2;
    for (size_t i = 0; i < outs[p].size(); ++i) {
      if (biased) expected[p][i] += biases[p][i % rows[p]];
      if (accumulate) expected[p][i] += outs[p][i];
    }
    parts.push_back({packed[p].get(), biased ? biases[p].data() : nullptr,
                     outs[p].data(), accumulate});
  }
  table_->Linear({in.data(), tokens, width, parts});
  for (int p = 0; p < 4; ++p) {
    EXPECT_THAT(outs[p], testing::Pointwise(testing::FloatEq(), expected[p]))
        << "part " << p;
  }
}

// The bits of the ops that it stands for.
TEST_P(LinearTest, GatedIsTwoProductsAndSiluMul) {
  Random random(15);
  for (const DType dtype : {DType::kBF16, DType::kQ4_0, DType::kF8E4M3}) {
    for (const Precision precision : {Precision::kExact, Precision::kFast}) {
      const int64_t width = 160, rows = 41;
      const StoredWeight stored[] = {MakeWeight(dtype, rows, width, random),
                                     MakeWeight(dtype, rows, width, random)};
      const auto gate = Pack(stored[0], precision);
      const auto up = Pack(stored[1], precision);
      const auto biases = random.Normals(2 * rows);
      for (const int64_t tokens : {1, 8, 9, 32, 33}) {
        SCOPED_TRACE(testing::Message()
                     << DTypeName(dtype) << " tokens " << tokens);
        const std::vector<float> in = random.Normals(tokens * width);
        std::vector<float> out(tokens * rows, NAN), expected = out, ups = out;
        GatedLinearParams params = {in.data(),    tokens,     width,
                                    {gate.get()}, {up.get()}, 0};
        if (tokens % 2 == 1) {
          params.gate.bias = biases.data();
          params.up.bias = biases.data() + rows;
          params.limit = 0.5f;
        }
        params.up.out = ups.data();
        params.gate.out = expected.data();
        table_->KernelTable::GatedLinear(params);
        params.gate.out = out.data();
        table_->GatedLinear(params);
        EXPECT_EQ(out, expected);
      }
    }
  }
}

TEST_P(LinearTest, RowDoesNotDependOnBatchOrThreads) {
  Random random(6);
  const auto single = MakeSingle();
  for (Precision precision : {Precision::kFast, Precision::kExact}) {
    // Widths that end within a step of a kernel, and that do not.
    for (const bool whole : {false, true}) {
      for (DType dtype : AllTypes()) {
        SCOPED_TRACE(DTypeName(dtype));
        const int64_t block = GetDTypeInfo(dtype).block_elements;
        const int64_t width = !whole ? 256 + block : block == 256 ? 768 : 384;
        const int64_t rows = 41;
        StoredWeight weight = MakeWeight(dtype, rows, width, random);
        if (dtype == DType::kF4E2M1) UsePowerScales(&weight, random);
        const auto packed = Pack(weight, precision);
        const auto packed_single = single->Pack(weight.view, precision).value();
        const std::vector<float> in = random.Normals(129 * width);
        // Alone the first, and then one of five.
        std::vector<std::vector<float>> alone(129);
        for (int64_t t = 0; t < 129; t += t < 13 ? 1 : 5) {
          alone[t].resize(rows);
          const LinearPart part = {packed_single.get(), nullptr,
                                   alone[t].data(), false};
          single->Linear({in.data() + t * width, 1, width, {&part, 1}});
        }
        for (int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 64, 129}) {
          const auto out = Run(*packed, {&in[0], &in[0] + tokens * width});
          for (int64_t t = 0; t < tokens; ++t) {
            ASSERT_TRUE(alone[t].empty() ||
                        std::memcmp(&out[t * rows], alone[t].data(),
                                    rows * sizeof(float)) == 0)
                << t << " of " << tokens << " tokens";
          }
        }
      }
    }
  }
}

TEST_P(LinearTest, NonFiniteInputStaysNonFinite) {
  Random random(9);
  for (DType dtype : {DType::kQ4_0, DType::kQ8_0, DType::kQ4_K, DType::kBF16,
                      DType::kF8E4M3}) {
    const int64_t width = 256, rows = 20;
    const StoredWeight weight = MakeWeight(dtype, rows, width, random);
    const auto packed = Pack(weight, Precision::kFast);
    for (float bad : {NAN, INFINITY, -INFINITY}) {
      std::vector<float> in = random.Normals(2 * width);
      in[70] = bad;
      const std::vector<float> out = Run(*packed, in);
      for (int64_t r = 0; r < rows; ++r) {
        EXPECT_FALSE(std::isfinite(out[r])) << DTypeName(dtype) << " " << bad;
        EXPECT_TRUE(std::isfinite(out[rows + r]));
      }
    }
  }
}

TEST_P(LinearTest, RefusesTypesThatAreNoWeights) {
  for (DType dtype : {DType::kI8, DType::kU8, DType::kI16, DType::kI32,
                      DType::kI64, DType::kBool, DType::kF8E8M0}) {
    const std::vector<uint8_t> bytes(64 * 8);
    WeightView view;
    view.data = {bytes.data(), dtype, {2, 32}};
    EXPECT_EQ(table_->Pack(view, Precision::kFast).status().code(),
              absl::StatusCode::kInvalidArgument)
        << DTypeName(dtype);
  }
}

TEST_P(LinearTest, EmbeddingDequantizesRows) {
  Random random(8);
  for (DType dtype : AllTypes()) {
    SCOPED_TRACE(DTypeName(dtype));
    const int64_t width = 512;
    const StoredWeight weight = MakeWeight(dtype, 11, width, random);
    const int32_t ids[] = {10, 0, 3, 3, 7};
    std::vector<float> out(5 * width);
    table_->Embedding({weight.view, ids, 5, out.data()});
    const std::vector<float> expected = weight.Dequantized();
    for (int t = 0; t < 5; ++t) {
      EXPECT_EQ(std::memcmp(&out[t * width], &expected[ids[t] * width],
                            width * sizeof(float)),
                0);
    }
  }
}

INSTANTIATE_PRODUCT_TEST(LinearTest);

}  // namespace
}  // namespace shoal
