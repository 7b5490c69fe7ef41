// Speed of a layer of experts; see kernels_bench.h. The shape is that of
// DeepSeek-V2-Lite in Q4_0:
//   experts/TOKENS/DISTINCT   tokens choose 6 experts each among DISTINCT of 64
// Bytes are those of the experts that some token chose, each once; items are
// multiply-adds times two of all choices.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/dtype.h"
#include "tests/bench/kernels_bench.h"

namespace shoal {
namespace {

constexpr int64_t kHidden = 2048;
constexpr int64_t kInner = 1408;
constexpr int32_t kTopK = 6;
constexpr int32_t kExperts = 64;
constexpr int32_t kTurns = 64;  // whatever the number, all experts come up

// One layer's experts: more than the caches hold.
class Layer {
 public:
  Layer() : codes_(DTypeBytes(DType::kQ4_0, kHidden * kInner)) {
    // Speed does not depend on the weights' values.
    for (size_t i = 0; i < codes_.size(); ++i) {
      codes_[i] = static_cast<uint8_t>(i * 37 & 0x3b);
    }
    for (int32_t e = 0; e < kExperts; ++e) {
      experts_.push_back({Pack(kInner, kHidden), Pack(kInner, kHidden),
                          Pack(kHidden, kInner)});
    }
  }
  const std::vector<ExpertWeights>& experts() const { return experts_; }
  int64_t expert_bytes() const { return bytes_ / kExperts; }

 private:
  const PackedMatrix* Pack(int64_t rows, int64_t columns) {
    WeightView view;
    view.data = {codes_.data(), DType::kQ4_0, {rows, columns}};
    matrices_.push_back(BenchTable().Pack(view, Precision::kFast).value());
    bytes_ += matrices_.back()->owned_bytes();
    return matrices_.back().get();
  }

  std::vector<uint8_t> codes_;
  std::vector<std::unique_ptr<PackedMatrix>> matrices_;
  std::vector<ExpertWeights> experts_;
  int64_t bytes_ = 0;
};

void Experts(benchmark::State& state, int64_t tokens, int32_t distinct) {
  static const Layer layer;
  const BenchArray<float> in(std::vector<float>(tokens * kHidden, 0.5f));
  const BenchArray<float> out(tokens * kHidden);
  const int64_t choices = tokens * kTopK;
  const BenchArray<float> weights(std::vector<float>(choices, 1.0f / kTopK));
  // Other experts each time, none of them in a cache.
  std::vector<BenchArray<int32_t>> ids;
  for (int32_t turn = 0; turn < kTurns; ++turn) {
    std::vector<int32_t> chosen(choices);
    for (int64_t c = 0; c < choices; ++c) {
      chosen[c] =
          (turn * distinct + static_cast<int32_t>(c) % distinct) % kExperts;
    }
    ids.emplace_back(chosen);
  }
  MoeExpertsParams params;
  params.in = in.data();
  params.expert_weights = weights.data();
  params.experts = layer.experts();
  params.num_tokens = tokens;
  params.top_k = kTopK;
  params.hidden_size = kHidden;
  params.intermediate_size = kInner;
  params.out = out.data();
  size_t turn = 0;
  MeasureOps(state, distinct * layer.expert_bytes(),
             tokens * kTopK * 6 * kHidden * kInner, [&] {
               params.expert_ids = ids[turn++ % ids.size()].data();
               BenchTable().MoeExperts(params);
             });
}

}  // namespace

void RegisterExperts() {
  const auto experts = [](int64_t tokens, int32_t distinct) {
    RegisterBench(
        "experts/" + std::to_string(tokens) + "/" + std::to_string(distinct),
        [=](benchmark::State& state) { Experts(state, tokens, distinct); });
  };
  experts(1, 6);
  for (const int32_t distinct : {6, 24, 48}) experts(8, distinct);
  experts(16, 64);
  experts(512, 64);
}

}  // namespace shoal
