// ExpertLoad counts how often the experts of each layer are chosen. What the
// routers of a step choose lies in the kernel table's memory until all have,
// and then comes to the host at once. Threads: step thread only.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/loading/model_config.h"
#include "kernels/kernel_table.h"

namespace shoal {

class ExpertLoad {
 public:
  // `kernels` must outlive it. ResourceExhausted when the table has no memory
  // for the choices of `max_tokens` tokens.
  static absl::StatusOr<std::unique_ptr<ExpertLoad>> Create(
      const ModelConfig& config, int64_t max_tokens, KernelTable& kernels);

  // Where the router of `layer` puts what it chooses in a step of `num_tokens`:
  // [num_tokens, num_experts_per_tok]. REQUIRES: the layer has experts.
  int32_t* choices(int layer, int64_t num_tokens) const;
  // Queues the copy of what all routers of a step have chosen; nullptr if no
  // layer has experts.
  std::unique_ptr<DeviceFetch> Fetch(int64_t num_tokens) const;
  // Counts what was fetched.
  void Count(int64_t num_tokens, const int32_t* choices);

  // How often each expert was chosen since the start: [n_routed_experts]; empty
  // for a layer without experts.
  std::span<const uint64_t> load(int layer) const;
  // The same of all layers that have experts, one after the other.
  std::span<const uint64_t> loads() const { return loads_; }
  // And of late: a choice counts half once kHalfLife tokens have come after it.
  std::span<const float> recent_loads() const { return recent_; }
  // σ/μ of recent_loads() over a layer's experts: the smallest, the median and
  // the largest of the layers; zeroes without experts.
  std::array<double, 3> Imbalance() const;
  int64_t bytes() const { return choices_->bytes(); }

  static constexpr double kHalfLife = 2048;  // tokens

 private:
  explicit ExpertLoad(KernelTable& kernels) : kernels_(kernels) {}

  KernelTable& kernels_;
  int64_t num_experts_ = 0;
  int64_t top_k_ = 0;
  std::vector<int32_t> row_of_layer_;  // -1: no experts
  int32_t num_rows_ = 0;
  std::unique_ptr<DeviceBuffer> choices_;  // [num_rows, num_tokens, top_k]
  std::vector<uint64_t> loads_;            // [num_rows, num_experts]
  std::vector<float> recent_;              // like loads_
};

}  // namespace shoal
