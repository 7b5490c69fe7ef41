// DecoderStack is the one skeleton of every model: embedding, layers of two
// blocks around a residual stream, final norm, logits. What a layer's blocks
// are, and what they keep in the cache, is decided where it is built.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/models/block.h"
#include "engine/models/decoder.h"
#include "engine/models/rope.h"
#include "engine/models/weight_loader.h"

namespace shoal {

class DecoderStack : public Decoder {
 public:
  // Reads every tensor of the checkpoint's architecture. Errors as
  // MakeDecoder().
  static absl::StatusOr<std::unique_ptr<Decoder>> Create(
      const Checkpoint& checkpoint, const DecoderOptions& options,
      KernelTable& kernels, const LoadProgress& progress);

  const ModelConfig& config() const override { return config_; }
  const CacheLayout& cache_layout() const override { return cache_layout_; }
  int64_t weight_bytes() const override { return weight_bytes_; }
  int64_t workspace_bytes() const override { return workspace_->bytes(); }
  absl::Status Forward(const StepBatch& batch, PagedCache& cache) override;
  absl::Status Logits(int32_t first, int32_t count, float* out) override;

 private:
  struct Layer {
    std::vector<float> input_norm;
    std::unique_ptr<Block> attention;
    std::vector<float> post_attention_norm;
    std::unique_ptr<Block> mlp;
  };

  DecoderStack(const ModelConfig& config, const DecoderOptions& options,
               KernelTable& kernels);

  std::unique_ptr<Block> MakeAttention(int layer, const std::string& prefix,
                                       WeightLoader& loader) const;
  std::unique_ptr<Block> MakeMlp(int layer, const std::string& prefix,
                                 WeightLoader& loader) const;
  void LoadLayers(WeightLoader& loader, const LoadProgress& progress);
  absl::Status AllocateWorkspace();
  void Norm(const float* in, const std::vector<float>& weight, int64_t rows,
            float* out);

  const ModelConfig config_;
  const DecoderOptions options_;
  KernelTable& kernels_;
  CacheLayout cache_layout_;
  RotaryEmbedding rope_;
  WeightView embed_tokens_;
  std::vector<Layer> layers_;
  std::vector<float> final_norm_;
  std::unique_ptr<PackedMatrix> lm_head_;
  int64_t weight_bytes_ = 0;

  // Parts of workspace_, [max_tokens_per_step, ...] each.
  std::unique_ptr<DeviceBuffer> workspace_;
  float* hidden_ = nullptr;  // [.., hidden_size], the residual stream
  float* normed_ = nullptr;  // like hidden_; after Forward: rows for Logits
  float* cos_ = nullptr;     // [.., rotary_dim / 2]
  float* sin_ = nullptr;
  float* scratch_ = nullptr;
  int32_t num_logits_rows_ = 0;
};

}  // namespace shoal
