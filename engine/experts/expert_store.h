// The routed experts of one layer: where their weights are, and running the
// chosen ones where they lie. Models know no more of placement than this.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/loading/model_config.h"
#include "engine/models/weight_loader.h"
#include "kernels/kernel_table.h"

namespace shoal {

// What a router chose: top_k experts a token. In the kernel table's memory.
struct ExpertChoice {
  const int32_t* ids = nullptr;    // [num_tokens, top_k]
  const float* weights = nullptr;  // [num_tokens, top_k]
  int64_t num_tokens = 0;
};

// The shared experts of a layer: one that every token has; none without
// weights.
struct SharedExperts {
  ExpertWeights weights;     // in the kernel table's memory
  float* scratch = nullptr;  // as MoeExpertsParams::shared_scratch
};

// Begin() and Finish() together do out[t] += the weighted sum of what t's
// experts and the shared ones make of x[t]; both [num_tokens, hidden_size].
// Each chosen expert's weights are read once. What was queued in Begin(), and
// what a caller queues between the two, runs while the host computes experts
// that are not on the device.
class ExpertStore {
 public:
  virtual ~ExpertStore() = default;
  // Internal on a device fault. `choice` and `x` must stay until what was
  // queued is done.
  virtual absl::Status Begin(const ExpertChoice& choice,
                             const SharedExperts& shared, const float* x,
                             float* out) = 0;
  virtual absl::Status Finish(float* out) = 0;
};

// The three matrices of one expert in one table's memory; none where it lies
// elsewhere.
struct PackedExpert {
  std::unique_ptr<PackedMatrix> gate, up, down;

  // Of the expert whose tensors begin with `prefix`
  // ("model.layers.3.mlp.experts.17."); errors stay in the loader.
  static PackedExpert Load(const std::string& prefix, WeightLoader& loader);
  ExpertWeights weights() const { return {gate.get(), up.get(), down.get()}; }
};

// What of MoeExpertsParams is the model's.
MoeExpertsParams ExpertParams(const ModelConfig& config);

// All experts in the memory of one table.
class OneTierExperts : public ExpertStore {
 public:
  // Tensors under `prefix` ("model.layers.3.mlp.experts."); errors stay in the
  // loader. `config` and `kernels` must outlive this.
  OneTierExperts(const ModelConfig& config, const std::string& prefix,
                 KernelTable& kernels, WeightLoader& loader);

  absl::Status Begin(const ExpertChoice& choice, const SharedExperts& shared,
                     const float* x, float* out) override;
  absl::Status Finish(float* out) override;

 private:
  const ModelConfig& config_;
  KernelTable& kernels_;
  std::vector<PackedExpert> experts_;
  std::vector<ExpertWeights> weights_;  // of experts_
};

}  // namespace shoal
