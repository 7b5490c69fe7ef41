// The experts of one layer in two tiers; see expert_tiers.h. A step whose
// tokens chose only experts on the device runs as with one tier. Otherwise the
// device runs those that it has, then those carried to it for this step; the
// host computes the rest meanwhile, and its result is added.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/experts/expert_store.h"
#include "engine/experts/expert_tiers.h"

namespace shoal {

class TieredExperts : public ExpertStore {
 public:
  // Layer `row` of those with experts. `tiers` must outlive this.
  TieredExperts(ExpertTiers& tiers, int64_t row, std::string prefix,
                WeightLoader& loader);

  absl::Status Begin(const ExpertChoice& choice, const SharedExperts& shared,
                     const float* x, float* out) override;
  absl::Status Finish(float* out) override;

  // A copy on the device of what the checkpoint has. ResourceExhausted without
  // memory, Internal on a device fault.
  absl::Status LoadOnDevice(int64_t expert);
  void DropFromDevice(int64_t expert);
  const std::vector<PackedExpert>& on_host() const { return host_; }

 private:
  std::string PrefixOf(int64_t expert) const;
  // Fills tokens_, and sorts the chosen experts that are not on the device, or
  // are over-full there, into streamed_ and computed_weights_. Whether any is
  // on the device.
  absl::StatusOr<bool> Classify(const ExpertChoice& choice);
  // Splits the choices of over-full experts over both tiers.
  void Shed(int64_t num_choices, int64_t capacity);
  absl::Status RunStreamed(MoeExpertsParams params);
  absl::StatusOr<PackedExpert> PackForDevice(int64_t expert);

  ExpertTiers& tiers_;
  const int64_t row_;
  const std::string prefix_;
  std::vector<PackedExpert> device_, host_;  // [num_experts], some empty
  std::vector<ExpertWeights> device_weights_;

  // Of the step under way.
  std::vector<int64_t> tokens_;  // that chose each expert
  std::vector<int64_t> streamed_;
  std::vector<ExpertWeights> streamed_weights_;  // of one group; else none
  std::vector<ExpertWeights> computed_weights_;  // on the host; else none
  bool computes_ = false;
  bool sheds_ = false;  // some choices of experts on the device
  int64_t num_tokens_ = 0;
};

}  // namespace shoal
