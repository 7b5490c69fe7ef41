// The multi-token prediction module of DeepSeek-V3 (arXiv 2412.19437, section
// 2.2): one more decoder layer behind the stack that drafts the token after the
// next. With h_i the main model's final normalised hidden state of position i
// and t_{i+1} the token that follows it:
//   u_i = eh_proj [enorm(embed(t_{i+1})) ; hnorm(h_i)]
//   logits for t_{i+2} = head(norm(layer(u_i)))
// over a cache of its own. Its weights are read when a module is made, not
// before. Threads: step thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/models/block.h"
#include "engine/models/decoder.h"
#include "engine/models/input_staging.h"
#include "engine/models/logits_head.h"
#include "engine/models/rope.h"
#include "engine/models/weight_loader.h"

namespace shoal {

class MtpModule {
 public:
  // NotFound naming a tensor if the checkpoint has no module. `checkpoint` and
  // `kernels` must outlive it.
  static absl::StatusOr<std::unique_ptr<MtpModule>> Create(
      const Checkpoint& checkpoint, const DecoderOptions& options,
      KernelTable& kernels);

  // Of one layer.
  const CacheLayout& cache_layout() const { return cache_layout_; }

  // Row i of the batch is token t_{i+1} at the position of h_i; `hidden`
  // [num_tokens, hidden_size], in the table's memory, holds the h_i.
  // batch.logits_rows as in Decoder::Forward.
  absl::Status Forward(const StepBatch& batch, const float* hidden,
                       PagedCache& cache);
  // As Decoder::Logits.
  absl::Status Logits(int32_t first, int32_t count, float* out);

 private:
  MtpModule(const Checkpoint& checkpoint, const DecoderOptions& options,
            KernelTable& kernels, WeightLoader& loader);
  absl::Status AllocateWorkspace(int64_t tokens);
  void Norm(const float* in, const DeviceArray<float>& weight, int64_t rows,
            int64_t in_stride, float* out, int64_t out_stride);

  const ModelConfig& config_;
  KernelTable& kernels_;
  CacheLayout cache_layout_;
  RotaryEmbedding rope_;
  DeviceWeight embed_tokens_;
  DeviceArray<float> embed_norm_, hidden_norm_, input_norm_, mlp_norm_,
      final_norm_;
  std::unique_ptr<PackedMatrix> eh_proj_;
  std::unique_ptr<LogitsHead> logits_head_;
  std::unique_ptr<Block> attention_, mlp_;
  InputStaging staging_;

  // Parts of workspace_, [max_tokens_per_step, ...] each.
  std::unique_ptr<DeviceBuffer> workspace_;
  float* joined_ = nullptr;    // [.., 2 · hidden_size]
  float* residual_ = nullptr;  // [.., hidden_size]
  float* normed_ = nullptr;    // like residual_
  float* scratch_ = nullptr;
};

}  // namespace shoal
