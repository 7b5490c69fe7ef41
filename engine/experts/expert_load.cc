#include "engine/experts/expert_load.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/experts/placement.h"
#include "kernels/check.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<ExpertLoad>> ExpertLoad::Create(
    const ModelConfig& config, int64_t max_tokens, KernelTable& kernels) {
  std::unique_ptr<ExpertLoad> load(new ExpertLoad(kernels));
  load->num_experts_ = config.n_routed_experts;
  load->top_k_ = config.num_experts_per_tok;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    load->row_of_layer_.push_back(config.is_moe_layer(layer) ? load->num_rows_++
                                                             : -1);
  }
  const int64_t count = load->num_rows_ * max_tokens * load->top_k_;
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> choices =
      kernels.Allocate(count * static_cast<int64_t>(sizeof(int32_t)));
  if (!choices.ok()) {
    return absl::Status(
        choices.status().code(),
        absl::StrCat("experts chosen: ", choices.status().message()));
  }
  load->choices_ = *std::move(choices);
  load->loads_.resize(load->num_rows_ * load->num_experts_);
  load->recent_.resize(load->loads_.size());
  return load;
}

int32_t* ExpertLoad::choices(int layer, int64_t num_tokens) const {
  SHOAL_CHECK(row_of_layer_[layer] >= 0);
  return static_cast<int32_t*>(choices_->data()) +
         row_of_layer_[layer] * num_tokens * top_k_;
}

std::unique_ptr<DeviceFetch> ExpertLoad::Fetch(int64_t num_tokens) const {
  // Configurations may have experts and only dense layers.
  if (num_rows_ == 0) return nullptr;
  return kernels_.Fetch(
      choices_->data(),
      num_rows_ * num_tokens * top_k_ * static_cast<int64_t>(sizeof(int32_t)));
}

void ExpertLoad::Count(int64_t num_tokens, const int32_t* choices) {
  const int64_t row = num_tokens * top_k_;
  const auto decay = static_cast<float>(
      std::exp2(-static_cast<double>(num_tokens) / kHalfLife));
  for (float& recent : recent_) recent *= decay;
  for (int32_t r = 0; r < num_rows_; ++r) {
    uint64_t* load = loads_.data() + r * num_experts_;
    float* recent = recent_.data() + r * num_experts_;
    for (int64_t i = 0; i < row; ++i) {
      const int32_t expert = choices[r * row + i];
      if (expert < 0) continue;  // a router of NaNs chooses none
      ++load[expert];
      ++recent[expert];
    }
  }
}

std::array<double, 3> ExpertLoad::Imbalance() const {
  std::vector<double> layers;
  for (int32_t r = 0; r < num_rows_; ++r) {
    layers.push_back(shoal::Imbalance(
        std::span(recent_).subspan(r * num_experts_, num_experts_)));
  }
  if (layers.empty()) return {};
  std::sort(layers.begin(), layers.end());
  return {layers.front(), layers[layers.size() / 2], layers.back()};
}

std::span<const uint64_t> ExpertLoad::load(int layer) const {
  const int32_t row = row_of_layer_[layer];
  if (row < 0) return {};
  return {loads_.data() + row * num_experts_,
          static_cast<size_t>(num_experts_)};
}

}  // namespace shoal
