// A compressor of DeepSeek-V4: makes one cache entry of every `ratio` tokens
// (kernels/compress.h), normalised and rotated at the window's first position.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/loading/model_config.h"
#include "engine/models/block.h"
#include "engine/models/rope.h"
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
  // entry. All references must outlive this.
  Compressor(const ModelConfig& config, const RotaryEmbedding& rope,
             int32_t ratio, int64_t width, const CompressorPlace& place,
             const std::string& prefix, WeightLoader& loader);

  // Takes the step's tokens in: x [num_tokens, hidden_size].
  void Update(const StepContext& step, const float* x, float* scratch);
  int64_t ScratchFloats(int64_t num_tokens) const;

  // Entries that a token at `position` sees.
  int32_t NumVisible(int32_t position) const { return (position + 1) / ratio_; }
  int32_t ratio() const { return ratio_; }
  // The entries as rows: [num_blocks, entries of a block, width].
  ConstTensorView entries(const StepContext& step) const {
    return step.cache.tensor(place_.entries, place_.layer);
  }

 private:
  const ModelConfig& config_;
  const RotaryEmbedding& rope_;
  const int32_t ratio_;
  const int64_t width_;
  const bool overlap_;
  const CompressorPlace place_;
  std::unique_ptr<PackedMatrix> value_proj_, gate_proj_;
  std::vector<float> ape_, norm_;
  // Of the windows that close in a step.
  std::vector<int32_t> first_positions_;
  std::vector<int64_t> slots_;
};

}  // namespace shoal
