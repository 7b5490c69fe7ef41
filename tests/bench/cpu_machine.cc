// The CPU's table for the kernel benches, which SHOAL_BENCH_ISA (auto) and
// SHOAL_BENCH_THREADS (1) choose, and the machine's ceilings on one thread:
//   machine/read                memory
//   machine/int8, /vnni         8-bit products of AVX2 and of AVX-512
//   machine/f32, /bf16          float products of AVX-512
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_table.h"
#include "tests/bench/kernels_bench.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace shoal {
namespace {

std::string Setting(const char* name, const char* fallback) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : fallback;
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

// Products in registers, 24 sums: fused f32, and pairs of bf16.
__attribute__((target("avx512f"))) void MachineFloat(benchmark::State& state) {
  constexpr int kRounds = 1000, kSums = 24;
  __m512 sums[kSums];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  __m512 a = _mm512_set1_ps(1), b = a;
  for (auto _ : state) {
    for (int i = 0; i < kRounds; ++i) {
      asm volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 24
      for (int j = 0; j < kSums; ++j) {
        sums[j] = _mm512_fmadd_ps(a, b, sums[j]);
      }
    }
  }
  benchmark::DoNotOptimize(sums);
  state.SetItemsProcessed(state.iterations() * kRounds * kSums * 16 * 2);
}
__attribute__((target("avx512f,avx512bf16"))) void MachineBf16(
    benchmark::State& state) {
  constexpr int kRounds = 1000, kSums = 24;
  __m512 sums[kSums];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  auto a = (__m512bh)_mm512_set1_epi16(0x3f80);
  auto b = a;
  for (auto _ : state) {
    for (int i = 0; i < kRounds; ++i) {
      asm volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 24
      for (int j = 0; j < kSums; ++j) {
        sums[j] = _mm512_dpbf16_ps(sums[j], a, b);
      }
    }
  }
  benchmark::DoNotOptimize(sums);
  state.SetItemsProcessed(state.iterations() * kRounds * kSums * 32 * 2);
}
#endif

}  // namespace

KernelTable& BenchTable() {
  static const std::unique_ptr<KernelTable> table = MakeCpuKernelTable(
      ChooseCpuIsa(Setting("SHOAL_BENCH_ISA", "auto")).value(),
      std::stoi(Setting("SHOAL_BENCH_THREADS", "1")));
  return *table;
}

void RegisterMachine() {
  RegisterBench("machine/read", MachineRead);
#if defined(__x86_64__)
  if (ChooseCpuIsa("avx2").ok()) RegisterBench("machine/int8", MachineInt8);
  if (__builtin_cpu_supports("avx512vnni")) {
    RegisterBench("machine/vnni", MachineVnni);
  }
  if (__builtin_cpu_supports("avx512f")) {
    RegisterBench("machine/f32", MachineFloat);
  }
  if (__builtin_cpu_supports("avx512bf16")) {
    RegisterBench("machine/bf16", MachineBf16);
  }
#endif
}

}  // namespace shoal
