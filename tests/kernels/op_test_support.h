// What the op tests share: tables of every instruction set that this machine
// runs, seeded random values, and weights of every stored type.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/cpu_table.h"
#include "kernels/kernel_table.h"
#include "kernels/quant/dequantize.h"
#include "kernels/quant/float_bits.h"
#include "kernels/quant/quantize.h"
#include "tests/kernels/isa_avx512_emulated.h"

namespace shoal {

// Instruction sets under test.
inline std::vector<const CpuOps*> TestedOps() {
  std::vector<const CpuOps*> ops = {&ScalarOps()};
#if defined(__x86_64__)
  if (ChooseCpuIsa("avx2").ok()) ops.push_back(&Avx2Ops());
  if (ChooseCpuIsa("avx512").ok()) ops.push_back(&Avx512Ops());
#endif
#if defined(SHOAL_HAVE_SIMDE)
  if (ChooseCpuIsa("avx2").ok()) ops.push_back(&EmulatedAvx512Ops());
#endif
  return ops;
}

// Parameter: instruction set, threads.
class OpTest : public testing::TestWithParam<std::tuple<const CpuOps*, int>> {
 protected:
  const CpuOps& ops() const { return *std::get<0>(GetParam()); }

  std::unique_ptr<KernelTable> table_ =
      MakeCpuKernelTable(*std::get<0>(GetParam()), std::get<1>(GetParam()));
};

#define INSTANTIATE_OP_TEST(suite)                                             \
  INSTANTIATE_TEST_SUITE_P(                                                    \
      Cpu, suite,                                                              \
      testing::Combine(testing::ValuesIn(TestedOps()), testing::Values(1, 2)), \
      [](const testing::TestParamInfo<suite::ParamType>& info) {               \
        return std::string(std::get<0>(info.param)->name) + "_threads" +       \
               std::to_string(std::get<1>(info.param));                        \
      })

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}

  float Normal(float deviation = 1.0f) {
    return std::normal_distribution<float>(0.0f, deviation)(engine_);
  }
  std::vector<float> Normals(int64_t n, float deviation = 1.0f) {
    std::vector<float> values(n);
    for (float& value : values) value = Normal(deviation);
    return values;
  }
  // In [low, high].
  int64_t Integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  std::mt19937& engine() { return engine_; }

 private:
  std::mt19937 engine_;
};

// A stored matrix and the memory it lies in.
struct StoredWeight {
  std::vector<uint8_t> bytes;
  std::vector<float> scales;
  std::vector<uint8_t> exponents;  // scales instead, E8M0
  WeightView view;

  // Row-major [out, in] in f32.
  std::vector<float> Dequantized() const {
    std::vector<float> values(view.data.num_elements());
    for (int64_t r = 0; r < view.out_features(); ++r) {
      DequantizeWeightRow(view, r, values.data() + r * view.in_features());
    }
    return values;
  }
};

// Places of a block's f16 scales, for types that are filled with random bytes.
inline std::vector<int> HalfOffsets(DType dtype) {
  switch (dtype) {
    case DType::kQ5_0:
    case DType::kIQ4_NL:
    case DType::kIQ4_XS:
      return {0};
    case DType::kQ5_1:
    case DType::kQ5_K:
      return {0, 2};
    case DType::kQ2_K:
      return {80, 82};
    case DType::kQ3_K:
      return {108};
    case DType::kQ6_K:
      return {208};
    default:
      return {};
  }
}

// Random weights: quantised normal values where QuantizeRow writes the type,
// otherwise random codes with scales near 0.01.
inline StoredWeight MakeWeight(DType dtype, int64_t rows, int64_t columns,
                               Random& random) {
  StoredWeight weight;
  const int64_t row_bytes = DTypeBytes(dtype, columns);
  weight.bytes.resize(rows * row_bytes);
  if (CanQuantize(dtype)) {
    for (int64_t r = 0; r < rows; ++r) {
      QuantizeRow(dtype, random.Normals(columns, 0.05f).data(), columns,
                  weight.bytes.data() + r * row_bytes);
    }
  } else {
    for (uint8_t& byte : weight.bytes) {
      byte = static_cast<uint8_t>(random.Integer(0, 255));
      const bool e5m2 = dtype == DType::kF8E5M2;
      if (e5m2 || dtype == DType::kF8E4M3) byte &= e5m2 ? 0xbb : 0xb7;
    }
    const int64_t block_bytes = GetDTypeInfo(dtype).block_bytes;
    for (size_t at = 0; at < weight.bytes.size(); at += block_bytes) {
      for (int offset : HalfOffsets(dtype)) {
        const uint16_t half = F32ToF16(0.01f + random.Normal(0.002f));
        std::memcpy(weight.bytes.data() + at + offset, &half, sizeof(half));
      }
      if (dtype == DType::kMXFP4) {
        weight.bytes[at] = static_cast<uint8_t>(random.Integer(118, 124));
      }
    }
  }
  weight.view.data = {weight.bytes.data(), dtype, {rows, columns}};
  if (dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2 ||
      dtype == DType::kF4E2M1) {
    const bool fp4 = dtype == DType::kF4E2M1;
    weight.view.scale_rows = fp4 ? 1 : 128;
    weight.view.scale_cols = fp4 ? 32 : 128;
    const int64_t down =
        (rows + weight.view.scale_rows - 1) / weight.view.scale_rows;
    const int64_t across =
        (columns + weight.view.scale_cols - 1) / weight.view.scale_cols;
    weight.scales = random.Normals(down * across, 0.01f);
    weight.view.scales = {weight.scales.data(), DType::kF32, {down, across}};
  }
  return weight;
}

// Gives FP8 or FP4 random powers of two near 0.01 as scales.
inline void UsePowerScales(StoredWeight* weight, Random& random) {
  ConstTensorView& scales = weight->view.scales;
  weight->exponents.resize(scales.num_elements());
  for (uint8_t& exponent : weight->exponents) {
    exponent = static_cast<uint8_t>(random.Integer(118, 124));
  }
  scales.data = weight->exponents.data();
  scales.dtype = DType::kF8E8M0;
}

inline double Norm(const float* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{x[i]} * x[i];
  return std::sqrt(sum);
}

}  // namespace shoal
