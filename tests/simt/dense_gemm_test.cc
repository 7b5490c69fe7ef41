// Products that go to cuBLASLt, over the shim's or the real one.
#include "kernels/cuda/dense_gemm.h"

#include <cmath>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/probe_memory.h"
#include "tests/kernels/op_test_support.h"

namespace shoal::cuda {
namespace {

// A product, its memory on the device, and the values that it should have.
class Case {
 public:
  Case(LaunchContext& context, DType dtype, int64_t features, int64_t width,
       int64_t num_rows, int64_t apart = 0)
      : memory_(context) {
    Random random(static_cast<uint32_t>(features + width + num_rows));
    const StoredWeight weight = MakeWeight(dtype, features, width, random);
    const std::vector<float> in = random.Normals(num_rows * width);
    bias_ = random.Normals(features);
    product.shape.dtype = dtype;
    product.shape.out_features = features;
    product.shape.in_features = width;
    product.shape.scale_rows = weight.view.scale_rows;
    product.shape.scale_cols = weight.view.scale_cols;
    product.shape.aligned = product.shape.fast = true;
    product.one.data = memory_.Copy(weight.bytes);
    if (!weight.scales.empty()) {
      product.one.scales =
          reinterpret_cast<const uint8_t*>(memory_.Copy(weight.scales));
    }
    product.in = memory_.Copy(in);
    product.in_stride = width;
    product.out_stride = features + apart;
    product.num_rows = num_rows;
    product.out = memory_.Floats(num_rows * product.out_stride);
    const std::vector<float> rounded =
        dtype == DType::kBF16 ? InBF16(in) : InE4M3(in);
    const std::vector<float> w = weight.Dequantized();
    for (int64_t r = 0; r < num_rows; ++r) {
      for (int64_t f = 0; f < features; ++f) {
        double sum = 0;
        for (int64_t k = 0; k < width; ++k) {
          sum += double{rounded[r * width + k]} * w[f * width + k];
        }
        sums_.push_back(sum);
        bounds_.push_back(1e-5 * Norm(&rounded[r * width], width) *
                          Norm(&w[f * width], width));
      }
    }
  }

  void AddBias() { product.bias = memory_.Copy(bias_); }

  std::vector<float> Out() {
    return memory_.Read(product.out, product.num_rows * product.out_stride);
  }

  // The first `num_rows` rows are `times` the sums, and the bias where there is
  // one; behind rows and between them nothing is written.
  void ExpectOut(int64_t num_rows, int times = 1) {
    const std::vector<float> out = Out();
    const int64_t features = product.shape.out_features;
    for (int64_t i = 0; i < static_cast<int64_t>(out.size()); ++i) {
      const int64_t row = i / product.out_stride;
      const int64_t feature = i % product.out_stride;
      if (row >= num_rows || feature >= features) {
        ASSERT_EQ(out[i], 0) << row << " " << feature;
        continue;
      }
      const int64_t at = row * features + feature;
      const double bias = product.bias != nullptr ? bias_[feature] : 0;
      ASSERT_NEAR(out[i], times * (sums_[at] + bias),
                  times * (bounds_[at] + 1e-6 * std::abs(bias)))
          << row << " " << feature;
    }
  }

  GroupedProduct product;

 private:
  static std::vector<float> InBF16(std::vector<float> in) {
    for (float& x : in) x = BF16ToF32(F32ToBF16(x));
    return in;
  }
  // With a scale per 128, so that the largest of them becomes 448.
  static std::vector<float> InE4M3(std::vector<float> in) {
    for (size_t begin = 0; begin < in.size(); begin += 128) {
      float largest = 0;
      for (size_t i = begin; i < begin + 128; ++i) {
        largest = std::max(largest, std::abs(in[i]));
      }
      const float scale = largest / 448;
      for (size_t i = begin; i < begin + 128; ++i) {
        // Of all codes the nearest.
        float nearest = 0;
        for (int code = 0; code < 0x7f; ++code) {
          const float value = F8E4M3ToF32(static_cast<uint8_t>(code));
          const float x = std::abs(in[i]) / scale;
          if (std::abs(value - x) < std::abs(nearest - x)) nearest = value;
        }
        in[i] = std::copysign(nearest * scale, in[i]);
      }
    }
    return in;
  }

  ProbeMemory memory_;
  std::vector<float> bias_;
  std::vector<double> sums_, bounds_;
};

class DenseGemmTest : public testing::Test {
 protected:
  void SetUp() override {
    auto gemm = DenseGemm::Open(context_);
    ASSERT_TRUE(gemm.ok()) << gemm.status();
    gemm_ = *std::move(gemm);
  }
  void TearDown() override {
    EXPECT_EQ(context_.error(), cudaSuccess) << context_.ErrorText();
  }

  // Rows that the library takes of the product alone.
  int64_t Run(const GroupedProduct& product) {
    RoundedInput rounded;
    return gemm_->Run(product, rounded);
  }

  LaunchContext context_;
  std::unique_ptr<DenseGemm> gemm_;
};

TEST_F(DenseGemmTest, MultipliesBF16) {
  const int64_t shapes[][3] = {{16, 8, 33}, {48, 200, 40}, {128, 256, 129}};
  for (const auto& [features, width, num_rows] : shapes) {
    for (const int64_t apart : {0, 12}) {
      SCOPED_TRACE(testing::Message() << features << "x" << width << " times "
                                      << num_rows << " apart " << apart);
      Case work(context_, DType::kBF16, features, width, num_rows, apart);
      EXPECT_EQ(Run(work.product), num_rows);
      work.ExpectOut(num_rows);
      work.product.accumulate = true;
      EXPECT_EQ(Run(work.product), num_rows);
      work.ExpectOut(num_rows, 2);
      work.product.accumulate = false;
      work.AddBias();
      EXPECT_EQ(Run(work.product), num_rows);
      work.ExpectOut(num_rows);
      work.product.accumulate = true;
      EXPECT_EQ(Run(work.product), num_rows);
      work.ExpectOut(num_rows, 2);
    }
  }
}

// The library's algorithms may want more of an address than it has.
TEST_F(DenseGemmTest, TellsHowAddressesAreAligned) {
  Case work(context_, DType::kBF16, 48, 64, 40);
  EXPECT_EQ(Run(work.product), 40);
  const std::vector<float> expected = work.Out();
  const auto count = static_cast<int64_t>(expected.size());
  ProbeMemory memory(context_);
  work.product.out = memory.Floats(count + 4) + 4;
  EXPECT_EQ(Run(work.product), 40);
  EXPECT_EQ(memory.Read(work.product.out, count), expected);
}

// Its rows are whole units of sixteen.
TEST_F(DenseGemmTest, MultipliesFP8ByBlocks) {
  const int64_t shapes[][3] = {{32, 512, 48}, {272, 512, 50}, {144, 1024, 63}};
  for (const auto& [features, width, num_rows] : shapes) {
    SCOPED_TRACE(testing::Message()
                 << features << "x" << width << " times " << num_rows);
    Case work(context_, DType::kF8E4M3, features, width, num_rows);
    EXPECT_EQ(Run(work.product), 48);
    work.ExpectOut(48);
    work.product.accumulate = true;
    EXPECT_EQ(Run(work.product), 48);
    work.ExpectOut(48, 2);
  }
}

TEST_F(DenseGemmTest, LeavesTheRestToTheOtherKernels) {
  context_.set_dense_gemm(gemm_.get());
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    Case work(context_, dtype, 32, 512, 35);
    EXPECT_EQ(Run(work.product), dtype == DType::kBF16 ? 35 : 32);
    std::vector<float> expected = work.Out();
    RunProduct(context_, work.product);
    const std::vector<float> out = work.Out();
    // The last three rows of FP8 are products of few rows.
    Case rest(context_, dtype, 32, 512, 35);
    rest.product.in += 32 * 512;
    rest.product.num_rows = 3;
    RunProduct(context_, rest.product);
    if (dtype == DType::kF8E4M3) {
      const std::vector<float> few = rest.Out();
      std::copy(few.begin(), few.end(), expected.begin() + 32 * 32);
    }
    EXPECT_EQ(out, expected);
  }
}

// Parts of one input that need it in different forms.
TEST_F(DenseGemmTest, SharesTheInput) {
  context_.set_dense_gemm(gemm_.get());
  Case first(context_, DType::kBF16, 32, 512, 48);
  Case second(context_, DType::kF8E4M3, 32, 512, 48);
  Case third(context_, DType::kF8E4M3, 48, 512, 48);
  third.product.in = second.product.in = first.product.in;
  const auto alone = [&](Case& work) {
    RunProduct(context_, work.product);
    return work.Out();
  };
  const std::vector<float> expected[] = {alone(first), alone(second),
                                         alone(third)};
  const GroupedProduct parts[] = {first.product, second.product, third.product};
  RunProducts(context_, parts);
  EXPECT_EQ(first.Out(), expected[0]);
  EXPECT_EQ(second.Out(), expected[1]);
  EXPECT_EQ(third.Out(), expected[2]);
}

TEST_F(DenseGemmTest, TakesNothingElse) {
  Case work(context_, DType::kBF16, 32, 512, 33);
  GroupedProduct few = work.product;
  few.num_rows = 32;
  EXPECT_EQ(Run(few), 0);
  GroupedProduct exact = work.product;
  exact.shape.fast = false;
  EXPECT_EQ(Run(exact), 0);
  GroupedProduct apart = work.product;
  apart.out += 1;
  EXPECT_EQ(Run(apart), 0);
  GroupedProduct odd = work.product;
  odd.shape.in_features = 510;
  EXPECT_EQ(Run(odd), 0);
  GroupedProduct other = work.product;
  other.shape.dtype = DType::kF16;
  EXPECT_EQ(Run(other), 0);
  Case fp8(context_, DType::kF8E4M3, 32, 512, 48);
  GroupedProduct thin = fp8.product;
  thin.shape.scale_rows = 1;
  EXPECT_EQ(Run(thin), 0);
  GroupedProduct narrow = fp8.product;
  narrow.shape.in_features = 384;  // three scales a row
  EXPECT_EQ(Run(narrow), 0);
  fp8.AddBias();
  EXPECT_EQ(Run(fp8.product), 0);
}

// Non-finite inputs stay so, and zeros have a scale.
TEST_F(DenseGemmTest, FP8KeepsNonFiniteRows) {
  Case work(context_, DType::kF8E4M3, 32, 512, 48);
  ProbeMemory memory(context_);
  std::vector<float> in(48 * 512);
  in[100] = NAN;
  in[512 + 300] = INFINITY;
  work.product.in = memory.Copy(in);
  EXPECT_EQ(Run(work.product), 48);
  const std::vector<float> out = work.Out();
  for (int64_t i = 0; i < 48 * 32; ++i) {
    EXPECT_EQ(std::isfinite(out[i]), i >= 64) << i;
    if (i >= 64) {
      EXPECT_EQ(out[i], 0);
    }
  }
}

}  // namespace
}  // namespace shoal::cuda
