// What the op tests share: the tables that they run on, seeded random values,
// and weights of every stored type.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/cpu_table.h"
#include "kernels/kernel_table.h"
#include "kernels/quant/dequantize.h"
#include "kernels/quant/float_bits.h"
#include "kernels/quant/quantize.h"

namespace shoal {

// A table that the op tests run on.
struct TestedTable {
  std::string name;
  const CpuOps* cpu_ops = nullptr;  // what a CPU's table computes with
  std::function<std::unique_ptr<KernelTable>()> make;
  // Largest relative error of a weight times an activation in fast products,
  // beside what cpu_ops' rounding of activations explains.
  double fast_error = 0;
  // Differs from the table before it in products only: other ops need no test.
  bool only_products = false;
};

// The tables under test: given by the binary that the tests are linked into.
// Every table takes params whose pointers are the host's.
std::vector<TestedTable> TestedTables();

class OpTest : public testing::TestWithParam<TestedTable> {
 protected:
  // A second table like table_, on one thread where it has threads.
  std::unique_ptr<KernelTable> MakeSingle() const {
    const CpuOps* ops = GetParam().cpu_ops;
    return ops != nullptr ? MakeCpuKernelTable(*ops, 1) : GetParam().make();
  }

  std::unique_ptr<KernelTable> table_ = GetParam().make();
};

inline std::vector<TestedTable> TablesForAllOps() {
  std::vector<TestedTable> tables = TestedTables();
  std::erase_if(tables, [](const TestedTable& t) { return t.only_products; });
  return tables;
}

#define INSTANTIATE_ON_TABLES(suite, tables)                     \
  INSTANTIATE_TEST_SUITE_P(                                      \
      Tables, suite, testing::ValuesIn(tables),                  \
      [](const testing::TestParamInfo<suite::ParamType>& info) { \
        return info.param.name;                                  \
      })
#define INSTANTIATE_OP_TEST(suite) \
  INSTANTIATE_ON_TABLES(suite, TablesForAllOps())
// Of a suite whose ops are products.
#define INSTANTIATE_PRODUCT_TEST(suite) \
  INSTANTIATE_ON_TABLES(suite, TestedTables())

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

// `in` as an instruction set rounds it, its panels taken apart: [tokens,
// width / kGroup].
inline std::vector<RoundedGroup> RoundedByToken(const CpuOps& ops,
                                                const std::vector<float>& in,
                                                int64_t width) {
  const auto tokens = static_cast<int64_t>(in.size()) / width;
  const int64_t row = width / kGroup;
  const int64_t max_panel = ops.max_panel;
  std::vector<RoundedGroup> panels(tokens * row);
  // In three parts that end within panels.
  const int64_t columns = (tokens + max_panel - 1) / max_panel * row;
  const int64_t ends[] = {0, columns / 3, columns / 2, columns};
  for (int part = 0; part < 3; ++part) {
    ops.round_rows(in.data(), width, tokens, ends[part], ends[part + 1],
                   panels.data());
  }
  std::vector<RoundedGroup> groups(tokens * row);
  for (int64_t token = 0; token < tokens;) {
    const int64_t size = std::min(tokens - token, max_panel);
    for (int64_t t = 0; t < size; ++t) {
      for (int64_t g = 0; g < row; ++g) {
        groups[(token + t) * row + g] = panels[token * row + g * size + t];
      }
    }
    token += size;
  }
  return groups;
}

inline double Norm(const float* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{x[i]} * x[i];
  return std::sqrt(sum);
}

}  // namespace shoal
