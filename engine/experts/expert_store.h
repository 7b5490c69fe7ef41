// The routed experts of one layer: where their weights are, and running the
// chosen ones where they lie. Models know no more of
// placement than this; today there is one tier, the memory of the kernel table
// that the weights were packed for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/loading/model_config.h"
#include "engine/models/weight_loader.h"
#include "kernels/kernel_table.h"

namespace shoal {

// What a router chose: top_k experts a token.
struct ExpertChoice {
  const int32_t* ids = nullptr;    // [num_tokens, top_k]
  const float* weights = nullptr;  // [num_tokens, top_k]
  int64_t num_tokens = 0;
};

class ExpertStore {
 public:
  // Tensors under `prefix` ("model.layers.3.mlp.experts."); errors stay in the
  // loader. `config` must outlive this.
  ExpertStore(const ModelConfig& config, const std::string& prefix,
              WeightLoader& loader);

  // out[t] += the weighted sum of what t's experts make of x[t]; both
  // [num_tokens, hidden_size]. Each chosen expert's weights are read once.
  void Run(KernelTable& kernels, const ExpertChoice& choice, const float* x,
           float* out) const;

 private:
  const ModelConfig& config_;
  std::vector<std::unique_ptr<PackedMatrix>> matrices_;
  std::vector<ExpertWeights> experts_;  // point into matrices_
};

}  // namespace shoal
