// Rotary position embedding: frequencies of a model once, cosines and sines of
// each step's tokens. Formulas: shared by Hugging Face's modeling_rope_utils
// and DeepSeek's inference code; written out in rope.cc.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/loading/model_config.h"

namespace shoal {

class RotaryEmbedding {
 public:
  // `rotary_dim`: elements of a head that are rotated, even.
  RotaryEmbedding(const ModelConfig& config, int32_t rotary_dim);

  int32_t rotary_dim() const { return rotary_dim_; }
  const std::vector<float>& inv_freq() const { return inv_freq_; }
  float attention_factor() const { return attention_factor_; }

  // cos and sin [positions.size(), rotary_dim / 2], the attention factor in
  // both. Angles are f32 products, as in the reference.
  void Fill(std::span<const int32_t> positions, float* cos, float* sin) const;

 private:
  int32_t rotary_dim_;
  std::vector<float> inv_freq_;  // [rotary_dim / 2]
  float attention_factor_ = 1;
};

// YaRN's g(factor, m) = 0.1 m ln(factor) + 1, or 1 for factor <= 1.
double YarnMscale(double factor, double m);

}  // namespace shoal
