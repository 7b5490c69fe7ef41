// Speed of the CPU ops, beside what the machine itself can do in the same run:
// its memory read bandwidth and its rate of int8 multiply-adds.
//
//   linear/TYPE/OUTxIN/TOKENS   bytes/s of packed weights, items/s of
//                               multiply-adds times two
//   attention/SEQUENCESxCONTEXT/NEW and other attentions
//                               bytes/s of cached rows, items/s likewise; see
//                               attention_bench.cc
//   experts/TOKENS/DISTINCT     bytes/s of the experts chosen; moe_bench.cc
//   machine/read, /int8, /vnni, /f32, /bf16
//                               the ceilings, one thread
//
// SHOAL_BENCH_ISA (auto) and SHOAL_BENCH_THREADS (1) choose the table.
#include "tests/bench/kernels_bench.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_table.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace shoal {
namespace {

std::string Setting(const char* name, const char* fallback) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : fallback;
}

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
  const std::vector<float> in(tokens * width, 0.5f);
  std::vector<float> out(tokens * rows);
  const LinearPart part = {packed.get(), nullptr, out.data(), false};
  for (auto _ : state) {
    BenchTable().Linear({in.data(), tokens, width, {&part, 1}});
  }
  const int64_t weight_bytes =
      packed->borrows_source() ? view.data.bytes() : packed->owned_bytes();
  state.SetBytesProcessed(state.iterations() * weight_bytes);
  state.SetItemsProcessed(state.iterations() * 2 * rows * width * tokens);
}

// Sums 256 MiB: far more than the caches hold.
void MachineRead(benchmark::State& state) {
  const std::vector<int64_t> data(32 << 20, 1);
  for (auto _ : state) {
    int64_t sums[8] = {};
    for (size_t i = 0; i < data.size(); i += 8) {
      for (int j = 0; j < 8; ++j) sums[j] += data[i + j];
    }
    benchmark::DoNotOptimize(sums);
  }
  state.SetBytesProcessed(state.iterations() * data.size() * 8);
}

#if defined(__x86_64__)
// maddubs and a 16-bit add in registers: what AVX2 gives 8-bit products.
__attribute__((target("avx2"))) void MachineInt8(benchmark::State& state) {
  __m256i sums[8];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(1);
  constexpr int kRounds = 1000;
  for (auto _ : state) {
    for (int i = 0; i < kRounds; ++i) {
      asm volatile("" : "+x"(a), "+x"(b));
      for (__m256i& sum : sums) {
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b));
      }
    }
    benchmark::DoNotOptimize(sums);
  }
  state.SetItemsProcessed(state.iterations() * kRounds * 8 * 32 * 2);
}

// dpbusd in registers: what AVX-512 VNNI gives them.
__attribute__((target("avx512f,avx512vnni"))) void MachineVnni(
    benchmark::State& state) {
  constexpr int kSums = 12;
  __m512i sums[kSums];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(1);
  constexpr int kRounds = 1000;
  for (auto _ : state) {
    for (int i = 0; i < kRounds; ++i) {
      asm volatile("" : "+v"(a), "+v"(b));
      for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, a, b);
    }
    benchmark::DoNotOptimize(sums);
  }
  state.SetItemsProcessed(state.iterations() * kRounds * kSums * 64 * 2);
}
#endif

void RegisterAll() {
  RegisterBench("machine/read", MachineRead);
#if defined(__x86_64__)
  if (ChooseCpuIsa("avx2").ok()) RegisterBench("machine/int8", MachineInt8);
  if (__builtin_cpu_supports("avx512vnni")) {
    RegisterBench("machine/vnni", MachineVnni);
  }
#endif
  const int64_t shapes[][2] = {
      {576, 576}, {1536, 576}, {49152, 576}, {4096, 4096}};
  for (DType dtype : {DType::kQ4_0, DType::kQ4_1, DType::kQ8_0, DType::kQ6_K,
                      DType::kBF16, DType::kF8E4M3, DType::kF4E2M1}) {
    for (const auto& [rows, shape_width] : shapes) {
      // Blocks of 256 do not divide 576.
      const int64_t width =
          dtype == DType::kQ6_K && shape_width == 576 ? 512 : shape_width;
      for (int64_t tokens : {1, 8, 32, 512}) {
        if (tokens == 512 && rows * width > 1 << 24) continue;  // seconds
        const std::string name = "linear/" + std::string(DTypeName(dtype)) +
                                 "/" + std::to_string(rows) + "x" +
                                 std::to_string(width) + "/" +
                                 std::to_string(tokens);
        RegisterBench(name, [=, rows = rows](benchmark::State& state) {
          Linear(state, dtype, rows, width, tokens);
        });
      }
    }
  }
  RegisterAttention();
  RegisterExperts();
}

}  // namespace

KernelTable& BenchTable() {
  static const std::unique_ptr<KernelTable> table = MakeCpuKernelTable(
      ChooseCpuIsa(Setting("SHOAL_BENCH_ISA", "auto")).value(),
      std::stoi(Setting("SHOAL_BENCH_THREADS", "1")));
  return *table;
}

}  // namespace shoal

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  shoal::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
