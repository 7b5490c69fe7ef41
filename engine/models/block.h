// A decoder layer is two blocks around a residual stream:
//   x += attention(norm1(x));  x += mlp(norm2(x))
// Architectures differ in their blocks; the skeleton (decoder_stack.h) is one.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "engine/cache/paged_cache.h"
#include "engine/scheduling/step_batch.h"
#include "kernels/kernel_table.h"

namespace shoal {

// What blocks of one forward pass share. Pointers into the decoder's memory.
struct StepContext {
  const StepBatch& batch;
  PagedCache& cache;
  KernelTable& kernels;
  const float* cos;  // [num_tokens, rotary_dim / 2]
  const float* sin;  // like cos
  float* scratch;    // block_scratch_floats() of the largest block
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
