#include "engine/models/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/check.h"

namespace shoal {
namespace {

// Long wavelengths are stretched by `factor`, short ones kept, those between
// blended linearly in L0 / wavelength.
double Llama3Frequency(const RopeScaling& s, double inv_freq) {
  const double length = static_cast<double>(s.original_max_position_embeddings);
  const double wavelength = 2 * std::numbers::pi / inv_freq;
  if (wavelength < length / s.high_freq_factor) return inv_freq;
  if (wavelength > length / s.low_freq_factor) return inv_freq / s.factor;
  const double smooth = (length / wavelength - s.low_freq_factor) /
                        (s.high_freq_factor - s.low_freq_factor);
  return (1 - smooth) * inv_freq / s.factor + smooth * inv_freq;
}

// Dimensions that turn more than beta_fast times within the original length are
// kept, those below beta_slow stretched, with a linear ramp between.
void ApplyYarn(const RopeScaling& s, double theta, int32_t dim,
               std::vector<double>* inv_freq) {
  const double length = static_cast<double>(s.original_max_position_embeddings);
  const auto correction = [&](double rotations) {
    return dim * std::log(length / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(theta));
  };
  const double low = std::max(std::floor(correction(s.beta_fast)), 0.0);
  double high = std::min(std::ceil(correction(s.beta_slow)), dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < inv_freq->size(); ++i) {
    const double ramp =
        std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    (*inv_freq)[i] *= (1 - ramp) + ramp / s.factor;
  }
}

double YarnAttentionFactor(const RopeScaling& s) {
  if (s.attention_factor != 0) return s.attention_factor;
  if (s.mscale != 0 && s.mscale_all_dim != 0) {
    return YarnMscale(s.factor, s.mscale) /
           YarnMscale(s.factor, s.mscale_all_dim);
  }
  return YarnMscale(s.factor, 1);
}

}  // namespace

double YarnMscale(double factor, double m) {
  return factor <= 1 ? 1 : 0.1 * m * std::log(factor) + 1;
}

RotaryEmbedding::RotaryEmbedding(const ModelConfig& config, int32_t rotary_dim)
    : rotary_dim_(rotary_dim) {
  SHOAL_CHECK(rotary_dim > 0 && rotary_dim % 2 == 0);
  const int32_t half = rotary_dim / 2;
  std::vector<double> inv_freq(half);
  for (int32_t i = 0; i < half; ++i) {
    inv_freq[i] = std::pow(config.rope_theta, -2.0 * i / rotary_dim);
  }
  const RopeScaling& scaling = config.rope_scaling;
  switch (scaling.type) {
    case RopeScaling::Type::kNone:
      break;
    case RopeScaling::Type::kLinear:
      for (double& f : inv_freq) f /= scaling.factor;
      break;
    case RopeScaling::Type::kLlama3:
      for (double& f : inv_freq) f = Llama3Frequency(scaling, f);
      break;
    case RopeScaling::Type::kYarn:
      ApplyYarn(scaling, config.rope_theta, rotary_dim, &inv_freq);
      attention_factor_ = static_cast<float>(YarnAttentionFactor(scaling));
      break;
  }
  if (!config.rope_freq_factors.empty()) {
    SHOAL_CHECK(static_cast<int32_t>(config.rope_freq_factors.size()) == half);
    for (int32_t i = 0; i < half; ++i) {
      inv_freq[i] /= config.rope_freq_factors[i];
    }
  }
  inv_freq_.assign(inv_freq.begin(), inv_freq.end());
}

void RotaryEmbedding::Fill(std::span<const int32_t> positions, float* cos,
                           float* sin) const {
  const size_t half = inv_freq_.size();
  for (size_t t = 0; t < positions.size(); ++t) {
    for (size_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(positions[t]) * inv_freq_[i];
      cos[t * half + i] = std::cos(angle) * attention_factor_;
      sin[t * half + i] = std::sin(angle) * attention_factor_;
    }
  }
}

}  // namespace shoal
