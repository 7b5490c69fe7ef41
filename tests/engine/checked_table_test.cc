// The checked table itself: it lets through what is right and nothing else.
#include "tests/engine/checked_table.h"

#include <cmath>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_table.h"

namespace shoal {
namespace {

class CheckedTableTest : public testing::Test {
 protected:
  CheckedTableTest() : table_(MakeCpuKernelTable(CpuIsa::kScalar, 1)) {}

  std::unique_ptr<DeviceBuffer> Floats(int64_t count) {
    return *table_.Allocate(count * static_cast<int64_t>(sizeof(float)));
  }

  CheckedTable table_;
};

using CheckedTableDeathTest = CheckedTableTest;

TEST_F(CheckedTableTest, OpsComputeInItsMemory) {
  const auto buffer = Floats(8);
  auto* values = static_cast<float*>(buffer->data());
  const std::vector<float> in = {1, 2, 3, 4};
  table_.Upload(in.data(), 16, values);
  SiluMulParams params = {values, values, values + 4, 1, 4};
  table_.SiluMul(params);
  std::vector<float> out(8);
  ASSERT_TRUE(table_.Download(values, 32, out.data()).ok());
  EXPECT_EQ(out[3], 4);
  EXPECT_NEAR(out[7], 16 / (1 + std::exp(-4.0f)), 1e-5);
  table_.Zero(values, 5);
  ASSERT_TRUE(table_.Download(values, 32, out.data()).ok());
  EXPECT_EQ(out[4], 0);
  EXPECT_NE(out[5], 0);
}

TEST_F(CheckedTableTest, AFaultIsToldWhenOpsAreAwaited) {
  const auto buffer = Floats(4);
  auto* values = static_cast<float*>(buffer->data());
  std::vector<float> out = {1, 2, 3, 4};
  table_.Upload(out.data(), 16, values);
  table_.FailAfter(1);
  table_.Zero(values, 1);
  EXPECT_EQ(table_.Synchronize().code(), absl::StatusCode::kInternal);
  table_.Zero(values, 4);
  EXPECT_EQ(table_.Download(values, 16, out.data()).code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(out[3], 4);
}

TEST_F(CheckedTableDeathTest, HostMemoryIsRefused) {
  std::vector<float> host(4);
  EXPECT_DEATH(table_.Zero(host.data(), 4), "Zero: out: 16 bytes");
  const auto buffer = Floats(4);
  auto* values = static_cast<float*>(buffer->data());
  const SiluMulParams params = {values, host.data(), values, 1, 4};
  EXPECT_DEATH(table_.SiluMul(params), "SiluMul: up: 16 bytes");
}

TEST_F(CheckedTableDeathTest, ExtentsPastTheEndAreRefused) {
  const auto buffer = Floats(4);
  auto* values = static_cast<float*>(buffer->data());
  EXPECT_DEATH(table_.Zero(values, 5), "pass its end");
  EXPECT_DEATH(table_.Zero(values + 1, 4), "pass its end");
}

TEST_F(CheckedTableDeathTest, TouchingFromOutsideIsAFault) {
  const auto buffer = Floats(4);
  auto* values = static_cast<volatile float*>(buffer->data());
  EXPECT_DEATH(values[0] = 1, "");
  std::vector<float> host(4);
  EXPECT_DEATH(table_.Upload(buffer->data(), 16, buffer->data()),
               "Upload: host: expected host memory");
}

}  // namespace
}  // namespace shoal
