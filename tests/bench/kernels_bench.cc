// Speed of the CPU ops, beside what the machine itself can do in the same run:
// its memory read bandwidth and its rate of int8 multiply-adds.
//
//   linear/TYPE/OUTxIN/TOKENS   bytes/s of packed weights, items/s of
//                               multiply-adds times two
//   attention/CONTEXT/NEW       bytes/s of K and V, 9 heads over 3 of 64
//   machine/read, machine/int8  the ceilings, one thread
//
// SHOAL_BENCH_ISA (auto) and SHOAL_BENCH_THREADS (1) choose the table.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_table.h"
#include "kernels/quant/float_bits.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace shoal {
namespace {

std::string Setting(const char* name, const char* fallback) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : fallback;
}

KernelTable& Table() {
  static const std::unique_ptr<KernelTable> table = MakeCpuKernelTable(
      ChooseCpuIsa(Setting("SHOAL_BENCH_ISA", "auto")).value(),
      std::stoi(Setting("SHOAL_BENCH_THREADS", "1")));
  return *table;
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
  const auto packed = Table().Pack(view, Precision::kFast).value();
  const std::vector<float> in(tokens * width, 0.5f);
  std::vector<float> out(tokens * rows);
  const LinearPart part = {packed.get(), nullptr, out.data(), false};
  for (auto _ : state) {
    Table().Linear({in.data(), tokens, width, {&part, 1}});
  }
  const int64_t weight_bytes =
      packed->borrows_source() ? view.data.bytes() : packed->owned_bytes();
  state.SetBytesProcessed(state.iterations() * weight_bytes);
  state.SetItemsProcessed(state.iterations() * 2 * rows * width * tokens);
}

void Attention(benchmark::State& state, int32_t context, int32_t q_len) {
  const int32_t heads = 9, kv_heads = 3, dim = 64, block = 16;
  const int32_t blocks = (context + block - 1) / block;
  const int64_t elements = int64_t{blocks} * block * kv_heads * dim;
  const std::vector<uint16_t> cache(elements, F32ToBF16(0.25f));
  const std::vector<float> q(int64_t{q_len} * heads * dim, 0.1f);
  std::vector<float> out(q.size());
  std::vector<int32_t> table(blocks);
  for (int32_t i = 0; i < blocks; ++i) table[i] = blocks - 1 - i;
  const int32_t cu_seqlens[] = {0, q_len};
  PagedAttentionParams params;
  params.q = q.data();
  params.cu_seqlens_q = cu_seqlens;
  params.context_lens = &context;
  params.block_tables = table.data();
  params.k_cache = {cache.data(), DType::kBF16, {blocks, block, kv_heads, dim}};
  params.v_cache = params.k_cache;
  params.out = out.data();
  params.num_seqs = 1;
  params.max_blocks = blocks;
  params.block_size = block;
  params.num_heads = heads;
  params.num_kv_heads = kv_heads;
  params.head_dim = dim;
  params.v_dim = dim;
  params.scale = 0.125f;
  for (auto _ : state) Table().PagedAttention(params);
  state.SetBytesProcessed(state.iterations() * elements * 4);
  state.SetItemsProcessed(state.iterations() * 4 * heads * dim * q_len *
                          int64_t{context - q_len / 2});
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
#endif

void Register(const std::string& name, auto function) {
  benchmark::RegisterBenchmark(name.c_str(), function)
      ->MinTime(0.1)
      ->UseRealTime();
}

void RegisterAll() {
  Register("machine/read", MachineRead);
#if defined(__x86_64__)
  if (ChooseCpuIsa("avx2").ok()) Register("machine/int8", MachineInt8);
#endif
  const int64_t shapes[][2] = {
      {576, 576}, {1536, 576}, {49152, 576}, {4096, 4096}};
  for (DType dtype :
       {DType::kQ4_0, DType::kQ4_1, DType::kQ8_0, DType::kQ6_K, DType::kBF16}) {
    for (const auto& [rows, shape_width] : shapes) {
      // Blocks of 256 do not divide 576.
      const int64_t width =
          dtype == DType::kQ6_K && shape_width == 576 ? 512 : shape_width;
      for (int64_t tokens : {1, 8, 32, 512}) {
        if (tokens == 512 && rows * width > 1 << 22) continue;  // seconds
        const std::string name = "linear/" + std::string(DTypeName(dtype)) +
                                 "/" + std::to_string(rows) + "x" +
                                 std::to_string(width) + "/" +
                                 std::to_string(tokens);
        Register(name, [=, rows = rows](benchmark::State& state) {
          Linear(state, dtype, rows, width, tokens);
        });
      }
    }
  }
  const int32_t contexts[][2] = {{128, 1}, {2048, 1}, {512, 512}, {2048, 64}};
  for (const auto& [context, q_len] : contexts) {
    Register(
        "attention/" + std::to_string(context) + "/" + std::to_string(q_len),
        [context = context, q_len = q_len](benchmark::State& state) {
          Attention(state, context, q_len);
        });
  }
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  shoal::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
