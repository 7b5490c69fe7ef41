// A compressor of DeepSeek-V4: makes one cache entry of every `ratio` tokens
// (kernels/compress.h), normalised and rotated at the window's first position.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "engine/loading/model_config.h"
#include "engine/models/block.h"
#include "engine/models/weight_loader.h"

namespace shoal {

// Where a compressor's rows are in the cache.
struct CompressorPlace {
  int entries = 0;  // cache group of the entries
  int state = 0;    // and of the open windows
  int layer = 0;    // in both
};

class Compressor {
 public:
  // Tensors under `prefix` ("...self_attn.compressor."); `width` values an
  // entry. `config` must outlive this.
  Compressor(const ModelConfig& config, int32_t ratio, int64_t width,
             const CompressorPlace& place, const std::string& prefix,
             WeightLoader& loader);

  // Takes the step's tokens in: x [num_tokens, hidden_size].
  void Update(const StepContext& step, const float* x, float* scratch) const;
  int64_t ScratchFloats(int64_t num_tokens) const;

  // The entries as rows: [num_blocks, entries of a block, width].
  ConstTensorView entries(const StepContext& step) const {
    return step.cache.tensor(place_.entries, place_.layer);
  }

 private:
  const ModelConfig& config_;
  const int32_t ratio_;
  const int64_t width_;
  const bool overlap_;
  const CompressorPlace place_;
  std::unique_ptr<PackedMatrix> value_proj_, gate_proj_;
  DeviceArray<float> ape_, norm_;
};

}  // namespace shoal
