// DeepSeek-V4's residual around one block: several streams of a token, mixed
// into the block's input and back; formulas in kernels/hyper_connection.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "engine/loading/model_config.h"
#include "engine/models/block.h"
#include "engine/models/weight_loader.h"

namespace shoal {

class HyperConnection {
 public:
  // Tensors `prefix` + "_fn", "_base" and "_scale" (.weight)
  // ("model.layers.3.hc_attn"). `config` must outlive this.
  HyperConnection(const ModelConfig& config, const std::string& prefix,
                  WeightLoader& loader);

  // out [num_tokens, hidden_size] = the mixture of streams [num_tokens,
  // hc_mult, hidden_size] that the block reads. `kept` [KeptFloats()] becomes
  // what Expand() needs of it.
  void Mix(KernelTable& kernels, const float* streams, int64_t num_tokens,
           float* scratch, float* kept, float* out) const;
  // Puts the block's result y [num_tokens, hidden_size] back into the streams.
  // The end of the stack has none.
  void Expand(KernelTable& kernels, const float* y, const float* kept,
              int64_t num_tokens, float* streams) const;
  static int64_t KeptFloats(const ModelConfig& config, int64_t num_tokens) {
    return num_tokens * config.hc_mult * (1 + config.hc_mult);
  }
  // Floats of scratch of Mix().
  int64_t ScratchFloats(int64_t num_tokens) const;

 private:
  const ModelConfig& config_;
  std::unique_ptr<PackedMatrix> fn_;
  DeviceArray<float> base_, scale_;
};

}  // namespace shoal
