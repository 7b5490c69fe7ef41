// FlashInfer's attention beside ours, over the same caches:
//   flashinfer/attention/SEQUENCESxCONTEXT/1, flashinfer/absorbed/...
// An error where its results are not ours.
#include <cmath>
#include <string>
#include <vector>

#include "kernels/quant/float_bits.h"
#include "tests/bench/kernels_bench.h"
#include "tests/bench/paged_case.h"
#include "tests/gpu/flashinfer.h"

namespace shoal {
namespace {

using Plan = std::unique_ptr<FlashInferStep> (*)(const PeerAttention&);

template <typename T>
std::vector<T> Downloaded(const T* device, int64_t n) {
  std::vector<T> values(n);
  if (!BenchTable().Download(device, n * sizeof(T), values.data()).ok()) {
    values.assign(n, 0);
  }
  return values;
}

// Of the norm of ours.
double Distance(const std::vector<float>& ours,
                const std::vector<uint16_t>& theirs) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    const double difference = ours[i] - BF16ToF32(theirs[i]);
    error += difference * difference;
    norm += double{ours[i]} * ours[i];
  }
  return std::sqrt(error / norm);
}

void Peer(benchmark::State& state, const HeadShape& shape, int32_t num_seqs,
          int32_t context, Plan plan) {
  const PagedCase work(shape, num_seqs, context, 1);
  const int64_t in_size = work.num_tokens() * shape.heads * shape.dim;
  const int64_t out_size = work.num_tokens() * shape.heads * shape.v_dim;
  std::vector<uint16_t> rounded;
  for (const float x : Queries(in_size)) rounded.push_back(F32ToBF16(x));
  const BenchArray<uint16_t> q(rounded), out(out_size);
  PeerAttention peer;
  peer.q = q.data();
  peer.k = static_cast<const uint16_t*>(work.params.k_cache.data);
  peer.v = static_cast<const uint16_t*>(work.params.v_cache.data);
  peer.block_tables = work.params.block_tables;
  peer.out = out.data();
  peer.num_seqs = num_seqs;
  peer.context = context;
  peer.block_size = kBlock;
  peer.num_heads = shape.heads;
  peer.scale = work.params.scale;
  BenchTable().PagedAttention(work.params);
  const std::vector<float> ours = Downloaded(work.params.out, out_size);
  const auto step = plan(peer);
  if (step == nullptr || step->Run() != cudaSuccess ||
      cudaDeviceSynchronize() != cudaSuccess) {
    state.SkipWithError("FlashInfer fails");
    return;
  }
  constexpr double kBothRound = 0.02;
  if (!(Distance(ours, Downloaded(peer.out, out_size)) < kBothRound)) {
    state.SkipWithError("FlashInfer's results are not ours");
    return;
  }
  const int ops = OpsPerIteration();
  for (auto _ : state) {
    for (int i = 0; i < ops; ++i) step->Run();
    cudaDeviceSynchronize();
  }
  CountOps(state, ops, work.bytes(), work.items());
}

}  // namespace

void RegisterFlashInfer() {
  const auto peer = [](const std::string& name, const HeadShape& shape,
                       int32_t num_seqs, int32_t context, Plan plan) {
    RegisterBench("flashinfer/" + name + "/" + std::to_string(num_seqs) + "x" +
                      std::to_string(context) + "/1",
                  [=](benchmark::State& state) {
                    Peer(state, shape, num_seqs, context, plan);
                  });
  };
  for (const int32_t num_seqs : {1, 32}) {
    peer("attention", kLargeGqa, num_seqs, num_seqs == 1 ? 8192 : 2048,
         PlanFlashInferGqa);
  }
  for (const int32_t num_seqs : {1, 32, 64}) {
    peer("absorbed", kLatent, num_seqs, num_seqs == 1 ? 8192 : 2048,
         PlanFlashInferMla);
  }
}

}  // namespace shoal
