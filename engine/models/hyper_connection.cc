#include "engine/models/hyper_connection.h"

namespace shoal {

HyperConnection::HyperConnection(const ModelConfig& config,
                                 const std::string& prefix,
                                 WeightLoader& loader)
    : config_(config),
      fn_(loader.ExactMatrix(prefix + "_fn.weight")),
      base_(loader.Floats(prefix + "_base.weight")),
      scale_(loader.Floats(prefix + "_scale.weight")) {}

int64_t HyperConnection::ScratchFloats(int64_t num_tokens) const {
  return fn_ == nullptr
             ? 0
             : num_tokens * (fn_->in_features() + fn_->out_features());
}

void HyperConnection::Mix(KernelTable& kernels, const float* streams,
                          int64_t num_tokens, float* scratch, float* kept,
                          float* out) const {
  const int64_t m = config_.hc_mult;
  const int64_t width = fn_->in_features();
  float* normed = scratch;
  float* mixing = normed + num_tokens * width;
  kernels.RmsNorm({streams, nullptr, normed, num_tokens, width, width, width,
                   config_.rms_norm_eps});
  const LinearPart part[] = {{fn_.get(), nullptr, mixing}};
  kernels.Linear({normed, num_tokens, width, part});
  HyperMixParams mix;
  mix.streams = streams;
  mix.mixing = mixing;
  mix.base = base_.data();
  mix.scale = scale_.data();
  mix.num_tokens = num_tokens;
  mix.hidden_size = config_.hidden_size;
  mix.m = static_cast<int32_t>(m);
  mix.sinkhorn_iters = static_cast<int32_t>(config_.hc_sinkhorn_iters);
  mix.eps = config_.hc_eps;
  mix.out = out;
  if (fn_->out_features() > m) {
    mix.post = kept;
    mix.comb = kept + num_tokens * m;
  }
  kernels.HyperMix(mix);
}

void HyperConnection::Expand(KernelTable& kernels, const float* y,
                             const float* kept, int64_t num_tokens,
                             float* streams) const {
  HyperExpandParams expand;
  expand.y = y;
  expand.post = kept;
  expand.comb = kept + num_tokens * config_.hc_mult;
  expand.num_tokens = num_tokens;
  expand.hidden_size = config_.hidden_size;
  expand.m = static_cast<int32_t>(config_.hc_mult);
  expand.streams = streams;
  kernels.HyperExpand(expand);
}

}  // namespace shoal
