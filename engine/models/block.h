// A decoder layer is two blocks around a residual stream:
//   x += attention(norm1(x));  x += mlp(norm2(x))
// or, with hyper-connections, around several of them.
// Architectures differ in their blocks; the skeleton (decoder_stack.h) is one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "engine/cache/paged_cache.h"
#include "engine/scheduling/step_batch.h"
#include "kernels/kernel_table.h"

namespace shoal {

// Cosines and sines of each token's position.
struct RopeAngles {
  const float* cos = nullptr;  // [num_tokens, rotary_dim / 2]
  const float* sin = nullptr;  // like cos
};

// What blocks of one forward pass share. Pointers into the decoder's memory.
struct StepContext {
  const StepBatch& batch;
  PagedCache& cache;
  KernelTable& kernels;
  RopeAngles rope;
  RopeAngles compress_rope;  // of DeepSeek-V4's compressed layers
  float* scratch;            // block_scratch_floats() of the largest block
};

class Block {
 public:
  virtual ~Block() = default;
  // residual[t] += block(x[t]); both [num_tokens, hidden_size], no aliasing.
  virtual absl::Status Forward(const StepContext& step, const float* x,
                               float* residual) = 0;
  // Floats of scratch a step of `num_tokens` needs.
  virtual int64_t ScratchFloats(int64_t num_tokens) const = 0;
  // How often each expert was chosen since the start; empty without experts.
  virtual std::span<const uint64_t> expert_load() const { return {}; }
};

}  // namespace shoal
