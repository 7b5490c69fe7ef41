// Bytes of planned tensors: statistics, order, and the narrow encodings.
#include "server/synth/tensor_filler.h"

#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/quant/dequantize.h"

namespace shoal {
namespace {

std::vector<uint8_t> Bytes(uint64_t seed, const PlannedTensor& tensor) {
  TensorFiller filler(seed);
  std::vector<uint8_t> bytes;
  const absl::Status status =
      filler.Fill(tensor, [&bytes](std::span<const uint8_t> piece) {
        bytes.insert(bytes.end(), piece.begin(), piece.end());
        return absl::OkStatus();
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(std::ssize(bytes), tensor.bytes());
  return bytes;
}

class TensorFillerTest : public testing::TestWithParam<DType> {};

TEST_P(TensorFillerTest, HasTheMeanAndTheDeviation) {
  const PlannedTensor tensor = {
      "a", GetParam(), {1500, 768}, NormalFill{0.5f, 1.25f}};
  const std::vector<uint8_t> bytes = Bytes(1, tensor);
  std::vector<float> values(tensor.num_elements());
  DequantizeRow(tensor.dtype, bytes.data(), tensor.num_elements(),
                values.data());
  double sum = 0, squares = 0;
  for (const float value : values) {
    sum += value;
    squares += double{value} * value;
  }
  const auto n = static_cast<double>(values.size());
  EXPECT_NEAR(sum / n, 0.5, 0.02);
  EXPECT_NEAR(std::sqrt(squares / n - sum / n * sum / n), 1.25, 0.05);
}

TEST_P(TensorFillerTest, FollowsFromSeedAndName) {
  const auto tensor = [](const char* name) {
    return PlannedTensor{name, GetParam(), {3, 512}, NormalFill{}};
  };
  EXPECT_EQ(Bytes(1, tensor("a")), Bytes(1, tensor("a")));
  EXPECT_NE(Bytes(1, tensor("a")), Bytes(1, tensor("b")));
  EXPECT_NE(Bytes(1, tensor("a")), Bytes(2, tensor("a")));
}

INSTANTIATE_TEST_SUITE_P(All, TensorFillerTest,
                         testing::Values(DType::kF32, DType::kBF16,
                                         DType::kQ8_0, DType::kQ4_0,
                                         DType::kQ4_K, DType::kF8E4M3,
                                         DType::kF4E2M1),
                         [](const testing::TestParamInfo<DType>& info) {
                           return std::string(DTypeName(info.param));
                         });

TEST(TensorFillerTest, StopsAtTheSinksError) {
  TensorFiller filler(1);
  int pieces = 0;
  const PlannedTensor tensor = {"a", DType::kF32, {4096, 1024}, NormalFill{}};
  const absl::Status status =
      filler.Fill(tensor, [&pieces](std::span<const uint8_t>) {
        ++pieces;
        return absl::DataLossError("full");
      });
  EXPECT_EQ(status.message(), "full");
  EXPECT_EQ(pieces, 1);
}

TEST(EncodeValuesTest, EveryFp8AndFp4CodeComesBack) {
  for (const DType dtype : {DType::kF8E4M3, DType::kF4E2M1}) {
    std::vector<uint8_t> codes;
    for (int code = 0; code < 256; ++code) {
      const bool is_nan = dtype == DType::kF8E4M3 && (code & 0x7f) == 0x7f;
      // Zeros compare equal whatever their sign.
      const bool is_minus_zero = dtype == DType::kF8E4M3
                                     ? code == 0x80
                                     : (code & 15) == 8 || code >> 4 == 8;
      if (!is_nan && !is_minus_zero) codes.push_back(code);
    }
    const int64_t count =
        std::ssize(codes) * GetDTypeInfo(dtype).block_elements;
    std::vector<float> values(count);
    DequantizeRow(dtype, codes.data(), count, values.data());
    std::vector<uint8_t> again(codes.size());
    EncodeValues(dtype, values, again.data());
    EXPECT_EQ(again, codes);
  }
}

TEST(EncodeValuesTest, RoundsToTheNearestAndKeepsInRange) {
  const std::vector<float> values = {1000, -1000, 1.05f, 1.07f};
  std::vector<uint8_t> codes(4);
  EncodeValues(DType::kF8E4M3, values, codes.data());
  std::vector<float> decoded(4);
  DequantizeRow(DType::kF8E4M3, codes.data(), 4, decoded.data());
  EXPECT_THAT(decoded, testing::ElementsAre(448, -448, 1, 1.125f));
}

}  // namespace
}  // namespace shoal
