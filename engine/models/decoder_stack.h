// DecoderStack is the one skeleton of every model: embedding, layers of two
// blocks around a residual (one stream, or several with hyper-connections),
// final norm, logits. What a layer's blocks
// are, and what they keep in the cache, is decided where it is built.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "engine/models/block.h"
#include "engine/models/decoder.h"
#include "engine/models/hyper_connection.h"
#include "engine/models/input_staging.h"
#include "engine/models/logits_head.h"
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
  int64_t workspace_bytes() const override {
    return workspace_->bytes() + logits_head_->workspace_bytes() +
           (expert_load_ == nullptr ? 0 : expert_load_->bytes()) +
           (expert_tiers_ == nullptr ? 0 : expert_tiers_->workspace_bytes());
  }
  // Experts in two tiers have the host take part in every layer.
  bool can_run_ahead() const override {
    return kernels_.is_asynchronous() && expert_tiers_ == nullptr;
  }
  absl::Status Start(const StepBatch& batch, PagedCache& cache) override;
  absl::Status Draw(int32_t count, const TokenDraw* draws) override;
  absl::Status Finish(std::vector<int32_t>* tokens) override;
  absl::Status Logits(int32_t first, int32_t count, float* out) override;
  const float* hidden_states() const override { return normed_; }
  std::span<const uint64_t> expert_load(int layer) const override {
    if (expert_load_ == nullptr) return {};
    return expert_load_->load(layer);
  }
  ExpertStats expert_stats() const override;

 private:
  // What comes to the host of a step under way.
  struct StepResults {
    int64_t num_tokens = 0;
    std::unique_ptr<DeviceFetch> expert_choices;  // nullptr: no experts
    int32_t num_drawn = 0;
    std::unique_ptr<DeviceFetch> drawn;  // nullptr: none
  };

  // Half a layer: attention or MLP.
  struct SubLayer {
    DeviceArray<float> norm;
    std::unique_ptr<Block> block;
    std::unique_ptr<HyperConnection> connection;  // nullptr: a plain residual
  };

  DecoderStack(const ModelConfig& config, const DecoderOptions& options,
               KernelTable& kernels);

  std::unique_ptr<Block> MakeAttention(int layer, const std::string& prefix,
                                       WeightLoader& loader) const;
  std::unique_ptr<Block> MakeMlp(int layer, const std::string& prefix,
                                 WeightLoader& loader) const;
  void LoadLayers(WeightLoader& loader, const LoadProgress& progress);
  void LoadLayer(int layer, WeightLoader& loader);
  absl::Status RunSubLayer(const StepContext& step, SubLayer& sub_layer);
  absl::Status AllocateWorkspace();
  absl::Status CountExperts(const StepResults& results);
  absl::Status Stage(const StepBatch& batch, const PagedCache& cache);
  void Embed(int64_t num_tokens);
  absl::Status RunLayers(const StepBatch& batch, PagedCache& cache);
  bool IsReplayable(const StepBatch& batch) const;
  std::vector<int64_t> ReplayKey(const StepBatch& batch,
                                 const PagedCache& cache) const;
  void KeepLogitsRows(const StepBatch& batch);
  void Norm(const float* in, const DeviceArray<float>& weight, int64_t rows,
            float* out);

  const ModelConfig config_;
  const DecoderOptions options_;
  KernelTable& kernels_;
  CacheLayout cache_layout_;
  RotaryEmbedding rope_;
  RotaryEmbedding compress_rope_;  // of DeepSeek-V4's compressed layers
  DeviceWeight embed_tokens_;
  std::unique_ptr<ExpertTiers> expert_tiers_;  // nullptr: one tier
  std::vector<SubLayer> sub_layers_;           // two a layer
  std::unique_ptr<HyperConnection> head_connection_;
  DeviceArray<float> final_norm_;
  std::unique_ptr<LogitsHead> logits_head_;
  int64_t weight_bytes_ = 0;

  std::deque<StepResults> under_way_;  // the oldest first

  // Of the step started last.
  InputStaging staging_;
  StepInputs inputs_;
  V4Inputs v4_inputs_;
  std::unique_ptr<ExpertLoad> expert_load_;  // nullptr: no experts

  // Parts of workspace_, [max_tokens_per_step, ...] each.
  std::unique_ptr<DeviceBuffer> workspace_;
  float* hidden_ = nullptr;  // [.., max(1, hc_mult), hidden_size], residual
  float* normed_ = nullptr;  // [.., hidden_size]; after Forward: for Logits
  float* mixed_ = nullptr;   // like normed_; with hyper-connections
  float* kept_ = nullptr;    // of the hyper-connection around a block
  float* scratch_ = nullptr;
  int32_t num_logits_rows_ = 0;
};

}  // namespace shoal
