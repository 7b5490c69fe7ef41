// ExpertTiers keeps a model's routed experts in two tiers: the kernel table's
// memory (the device), as far as a budget goes, and the host's, where a second
// table computes the chosen ones that are not on the device. Which are, follows
// from what routers chose of late; copies move between steps, some at a time.
// A step's result does not depend on the placement beyond rounding.
// Threads: step thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/experts/expert_load.h"
#include "engine/experts/expert_stats.h"
#include "engine/experts/expert_store.h"
#include "engine/experts/placement.h"
#include "engine/loading/checkpoint.h"
#include "kernels/kernel_table.h"

namespace shoal {

class TieredExperts;

struct ExpertTierOptions {
  // Computes the experts of the host; must outlive the model. nullptr: all
  // experts lie in the model's kernel table.
  KernelTable* host = nullptr;
  // Bytes of experts on the device. -1: all, if they leave a tenth of its
  // memory, else half of what the other weights leave.
  int64_t device_bytes = -1;
  PlacementMode mode = PlacementMode::kDynamic;
  // What of one expert's tokens the device takes in a step, see
  // ExpertCapacity(); the rest goes to the expert's copy on the host, where all
  // have one then. 0: everything.
  double capacity_factor = 0;
  // Empty: measured once the experts are loaded.
  std::optional<TierSpeeds> speeds;
};

// Sizes of the experts of the layers that have any, in their order.
ExpertSizes SizesOfExperts(const Checkpoint& checkpoint,
                           const ModelConfig& config);

class ExpertTiers {
 public:
  // nullptr where one tier is enough: no host table, no experts, a device in
  // the host's memory, or a budget for all and no capacity factor. The
  // references must outlive it.
  static std::unique_ptr<ExpertTiers> Create(const Checkpoint& checkpoint,
                                             const ModelConfig& config,
                                             const ExpertTierOptions& options,
                                             Precision precision,
                                             KernelTable& device);
  ~ExpertTiers();

  // The experts of the next layer that has any; called in the layers' order.
  // Tensors under `prefix`. Errors stay in `loader`, which packs for the
  // device. This must outlive the store.
  std::unique_ptr<ExpertStore> MakeStore(const std::string& prefix,
                                         WeightLoader& loader);
  // Once all stores are made: memory for steps of `max_tokens`, and the speeds
  // where options gave none. ResourceExhausted without memory, Internal on a
  // device fault.
  absl::Status Prepare(int64_t max_tokens);

  // Between steps: moves copies, at most some megabytes a step. Internal on a
  // device fault.
  absl::Status EndStep(const ExpertLoad& load);

  const TierSpeeds& speeds() const { return speeds_; }
  const ExpertSizes& sizes() const { return sizes_; }
  const Residency& residency() const { return residency_; }
  // All but the imbalance.
  const ExpertStats& stats() const { return stats_; }
  int64_t workspace_bytes() const;

 private:
  friend class TieredExperts;

  // What the layers share in a step: the host's side of it.
  struct Workspace {
    std::vector<int32_t> ids;               // [max_tokens, top_k]
    std::vector<float> weights;             // [max_tokens, top_k]
    std::vector<float> in, out;             // [max_tokens, hidden_size]
    std::unique_ptr<DeviceBuffer> partial;  // like out, in the device's memory
    // With a capacity factor, like ids: what the device takes of them.
    std::vector<int32_t> kept_ids;
    std::unique_ptr<DeviceBuffer> device_kept_ids;
  };

  ExpertTiers(const Checkpoint& checkpoint, const ModelConfig& config,
              const ExpertTierOptions& options, Precision precision,
              KernelTable& device);

  bool keeps_all_on_host() const {
    return options_.mode != PlacementMode::kStatic ||
           options_.capacity_factor > 0;
  }
  absl::Status MeasureSpeeds();
  absl::Status Move(const ExpertMove& move);
  void CountCopy(int64_t expert, int64_t sign);

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const ExpertTierOptions options_;
  const Precision precision_;
  KernelTable& device_;
  KernelTable& host_;
  const ExpertSizes sizes_;
  Residency residency_;
  TierSpeeds speeds_;
  std::vector<TieredExperts*> layers_;
  Workspace workspace_;

  std::vector<ExpertMove> moves_;  // planned, those to come from next_move_ on
  size_t next_move_ = 0;
  int steps_ = 0;  // since the last plan
  ExpertStats stats_;
};

// Adds the time of its life to `seconds`.
class StallTimer {
 public:
  explicit StallTimer(double& seconds);
  ~StallTimer();
  StallTimer(const StallTimer&) = delete;
  StallTimer& operator=(const StallTimer&) = delete;

 private:
  double& seconds_;
  const absl::Time start_;
};

}  // namespace shoal
