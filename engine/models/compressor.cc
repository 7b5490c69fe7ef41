#include "engine/models/compressor.h"

namespace shoal {

Compressor::Compressor(const ModelConfig& config, int32_t ratio, int64_t width,
                       const CompressorPlace& place, const std::string& prefix,
                       WeightLoader& loader)
    : config_(config),
      ratio_(ratio),
      width_(width),
      overlap_(ratio == kOverlapRatio),
      place_(place),
      value_proj_(loader.ExactMatrix(prefix + "wkv.weight")),
      gate_proj_(loader.ExactMatrix(prefix + "wgate.weight")),
      ape_(loader.Floats(prefix + "ape.weight")),
      norm_(loader.Floats(prefix + "norm.weight")) {}

int64_t Compressor::ScratchFloats(int64_t num_tokens) const {
  const int64_t channels = overlap_ ? 2 * width_ : width_;
  // Values, gates and entries.
  return num_tokens * (2 * channels + width_);
}

void Compressor::Update(const StepContext& step, const float* x,
                        float* scratch) const {
  const int64_t num_tokens = step.batch.num_tokens();
  const int64_t channels = overlap_ ? 2 * width_ : width_;
  float* values = scratch;
  float* gates = values + num_tokens * channels;
  float* closed = gates + num_tokens * channels;
  const LinearPart parts[] = {{value_proj_.get(), nullptr, values},
                              {gate_proj_.get(), nullptr, gates}};
  step.kernels.Linear({x, num_tokens, config_.hidden_size, parts});

  CompressParams compress;
  compress.values = values;
  compress.gates = gates;
  compress.ape = ape_.data();
  compress.state =
      static_cast<float*>(step.cache.tensor(place_.state, place_.layer).data);
  compress.state_slots = step.inputs.state_slots;
  compress.cu_seqlens_q = step.inputs.cu_seqlens_q;
  compress.positions = step.inputs.positions;
  compress.num_seqs = step.batch.num_seqs();
  compress.ratio = ratio_;
  compress.width = static_cast<int32_t>(width_);
  compress.overlap = overlap_;
  compress.out = closed;
  step.kernels.Compress(compress);

  const CompressInputs& windows = step.v4->of_ratio(ratio_);
  const int64_t count = windows.num_closed;
  if (count == 0) return;
  step.kernels.RmsNorm({closed, norm_.data(), closed, count, width_, width_,
                        width_, config_.rms_norm_eps});
  RopeParams rope;
  rope.x = closed;
  rope.cos = windows.rope.cos;
  rope.sin = windows.rope.sin;
  rope.num_tokens = count;
  rope.num_heads = 1;
  rope.head_dim = static_cast<int32_t>(width_);
  rope.rotary_dim = static_cast<int32_t>(config_.qk_rope_head_dim);
  rope.offset = rope.head_dim - rope.rotary_dim;
  rope.token_stride = width_;
  rope.layout = config_.rope_layout;
  step.kernels.Rope(rope);
  const TensorView cache = step.cache.tensor(place_.entries, place_.layer);
  step.kernels.CacheWrite({closed, windows.slots, count, width_, width_,
                           TensorView(cache.data, cache.dtype,
                                      {cache.dim(0) * cache.dim(1), width_})});
}

}  // namespace shoal
