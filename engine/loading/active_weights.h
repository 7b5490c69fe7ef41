// What one token makes of a model's weights: the number that speed is held
// against, since a decode step of one sequence reads these bytes and a prompt's
// token takes two operations a value.
#pragma once

#include <cstdint>

#include "engine/loading/checkpoint.h"

namespace shoal {

struct ActiveWeights {
  // Of all layers, num_experts_per_tok of the experts; and of the output head,
  // tied or not.
  int64_t layer_values = 0;
  int64_t head_values = 0;
  int64_t bytes = 0;         // of both, as the file stores them
  int64_t expert_bytes = 0;  // those of `bytes` that are routed experts'

  int64_t values() const { return layer_values + head_values; }
};

// The embedding's one row counts for nothing, as does a prediction module.
ActiveWeights CountActiveWeights(const Checkpoint& checkpoint);

}  // namespace shoal
