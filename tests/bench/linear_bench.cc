// Speed of matrix products; see kernels_bench.h.
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/dtype.h"
#include "tests/bench/kernels_bench.h"

namespace shoal {
namespace {

// Speed does not depend on the weights' values: codes repeat, scales are sane.
std::vector<uint8_t> Codes(DType dtype, int64_t elements) {
  std::vector<uint8_t> bytes(DTypeBytes(dtype, elements));
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<uint8_t>(i * 37 & 0x3b);
  }
  return bytes;
}

void Linear(benchmark::State& state, DType dtype, int64_t rows, int64_t width,
            int64_t tokens) {
  const std::vector<uint8_t> bytes = Codes(dtype, rows * width);
  WeightView view;
  view.data = {bytes.data(), dtype, {rows, width}};
  const bool fp8 = dtype == DType::kF8E4M3;
  std::vector<uint8_t> scales;  // E8M0
  if (fp8 || dtype == DType::kF4E2M1) {
    view.scale_rows = fp8 ? 128 : 1;
    view.scale_cols = fp8 ? 128 : 32;
    const int64_t down = (rows + view.scale_rows - 1) / view.scale_rows;
    const int64_t across = (width + view.scale_cols - 1) / view.scale_cols;
    scales.assign(down * across, 120);
    view.scales = {scales.data(), DType::kF8E8M0, {down, across}};
  }
  const auto packed = BenchTable().Pack(view, Precision::kFast).value();
  const BenchArray<float> in(std::vector<float>(tokens * width, 0.5f));
  const BenchArray<float> out(tokens * rows);
  const LinearPart part = {packed.get(), nullptr, out.data(), false};
  const int64_t weight_bytes =
      packed->borrows_source() ? view.data.bytes() : packed->owned_bytes();
  MeasureOps(state, weight_bytes, 2 * rows * width * tokens, [&] {
    BenchTable().Linear({in.data(), tokens, width, {&part, 1}});
  });
}

void Register(DType dtype, int64_t rows, int64_t width, int64_t tokens) {
  RegisterBench("linear/" + std::string(DTypeName(dtype)) + "/" +
                    std::to_string(rows) + "x" + std::to_string(width) + "/" +
                    std::to_string(tokens),
                [=](benchmark::State& state) {
                  Linear(state, dtype, rows, width, tokens);
                });
}

constexpr DType kTypes[] = {DType::kQ4_0,   DType::kQ4_1,  DType::kQ8_0,
                            DType::kQ4_K,   DType::kQ6_K,  DType::kBF16,
                            DType::kF8E4M3, DType::kF4E2M1};

// A cube with 4,096 tokens, and DeepSeek-V3's of attention and dense layers.
constexpr int64_t kDeviceShapes[][2] = {
    {4096, 4096}, {24576, 1536}, {7168, 16384}, {18432, 7168}, {7168, 18432}};

// SmolLM2-135M's, and one that no cache holds.
void RegisterForHost(DType dtype) {
  const int64_t shapes[][2] = {
      {576, 576}, {1536, 576}, {49152, 576}, {4096, 4096}};
  for (const auto& [rows, shape_width] : shapes) {
    // Blocks of 256 do not divide 576.
    const bool large_blocks = dtype == DType::kQ4_K || dtype == DType::kQ6_K;
    const int64_t width =
        large_blocks && shape_width == 576 ? 512 : shape_width;
    for (const int64_t tokens : {1, 8, 32, 512}) {
      if (tokens == 512 && rows * width > 1 << 24) continue;  // seconds
      Register(dtype, rows, width, tokens);
    }
  }
}

}  // namespace

void RegisterLinear() {
  if (!OnHost()) {
    for (const DType dtype : {DType::kBF16, DType::kF8E4M3}) {
      for (const auto& [rows, width] : kDeviceShapes) {
        Register(dtype, rows, width, 4096);
      }
    }
  }
  for (const DType dtype : kTypes) {
    if (OnHost()) {
      RegisterForHost(dtype);
    } else {
      for (const int64_t tokens : {1, 8, 64, 512, 4096}) {
        Register(dtype, 14336, 4096, tokens);
      }
    }
  }
}

}  // namespace shoal
