// A decoder layer is two blocks around a residual stream:
//   x += attention(norm1(x));  x += mlp(norm2(x))
// or, with hyper-connections, around several of them.
// Architectures differ in their blocks; the skeleton (decoder_stack.h) is one.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "engine/cache/paged_cache.h"
#include "engine/experts/expert_load.h"
#include "engine/models/step_inputs.h"
#include "engine/models/v4_inputs.h"
#include "engine/scheduling/step_batch.h"
#include "kernels/kernel_table.h"

namespace shoal {

// What blocks of one forward pass share. Ops get pointers into the kernel
// table's memory; `batch` is for what is decided on the host.
struct StepContext {
  const StepBatch& batch;
  const StepInputs& inputs;
  PagedCache& cache;
  KernelTable& kernels;
  float* scratch;                 // ScratchFloats() of the largest block
  const V4Inputs* v4;             // nullptr: another model
  const ExpertLoad* expert_load;  // nullptr: nobody counts
};

class Block {
 public:
  virtual ~Block() = default;
  // residual[t] += block(x[t]); both [num_tokens, hidden_size], no aliasing.
  virtual absl::Status Forward(const StepContext& step, const float* x,
                               float* residual) = 0;
  // Floats of scratch a step of `num_tokens` needs.
  virtual int64_t ScratchFloats(int64_t num_tokens) const = 0;
};

}  // namespace shoal
