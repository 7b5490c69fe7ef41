// Decoder is a model ready to run: packed weights behind one forward pass. It
// knows batches and the cache, not requests. Threads: step thread only.
//
//   decoder.Start(batch, cache)  queue a step; the CPU computes it at once
//   decoder.Draw(count, draws)   and a token for each of its first rows
//   decoder.Finish(&tokens)      wait for the oldest step that is under way
//
// If can_run_ahead(), the next step may be started before one is finished: what
// was drawn in it goes in as DrawnToken().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/cache/cache_layout.h"
#include "engine/cache/paged_cache.h"
#include "engine/experts/expert_tiers.h"
#include "engine/loading/checkpoint.h"
#include "engine/scheduling/step_batch.h"
#include "kernels/kernel_table.h"

namespace shoal {

// How multi-head latent attention computes: in the latent space (absorbed), or
// from keys and values expanded out of it. Equal but for rounding.
enum class MlaForm : uint8_t { kAuto, kAbsorbed, kExpanded };

struct DecoderOptions {
  Precision precision = Precision::kFast;
  DType kv_cache_dtype = DType::kBF16;  // f32, bf16 or f16
  int32_t max_tokens_per_step = 0;      // REQUIRES: > 0; sizes the workspace
  // Keys a token attends to in models that choose them: the smaller of this and
  // the model's own number; 0: the latter.
  int32_t index_topk = 0;
  MlaForm mla_form = MlaForm::kAuto;  // kAuto: the cheaper one of each chunk
  ExpertTierOptions experts = {};
};

// Called while weights are repacked: fraction in [0, 1] and what is being done.
using LoadProgress =
    std::function<void(double fraction, std::string_view what)>;

class Decoder {
 public:
  virtual ~Decoder() = default;

  virtual const ModelConfig& config() const = 0;
  virtual const CacheLayout& cache_layout() const = 0;
  // Bytes of packed weights and of activations, for the memory report.
  virtual int64_t weight_bytes() const = 0;
  virtual int64_t workspace_bytes() const = 0;

  // Whether two steps may be under way at once; else one.
  virtual bool can_run_ahead() const = 0;

  // Starts a step: the new tokens' cache rows are written, and the final hidden
  // states of batch.logits_rows are kept. Internal on a device fault, which may
  // show in a later call only.
  // REQUIRES: 0 < batch.num_tokens() <= max_tokens_per_step.
  virtual absl::Status Start(const StepBatch& batch, PagedCache& cache) = 0;
  // Draws a token where the logits lie for each of the first `count` > 0
  // logits_rows of the step started last. `draws`: [count], nullptr if all are
  // greedy. At most once a step.
  virtual absl::Status Draw(int32_t count, const TokenDraw* draws) = 0;
  // Waits for the oldest step under way. `tokens` becomes what was drawn in it,
  // -1 where a logit is NaN or none is finite.
  virtual absl::Status Finish(std::vector<int32_t>* tokens) = 0;

  // Start and Finish, for those who read logits.
  absl::Status Forward(const StepBatch& batch, PagedCache& cache) {
    std::vector<int32_t> none;
    absl::Status status = Start(batch, cache);
    return status.ok() ? Finish(&none) : status;
  }

  // Logits of rows [first, first + count) of the last step's logits_rows into
  // out [count, vocab_size]: in pieces, so that memory stays bounded however
  // many prompt positions are asked for. REQUIRES: no step is under way.
  virtual absl::Status Logits(int32_t first, int32_t count, float* out) = 0;

  // Final hidden states of the last step's logits_rows, after the last norm:
  // [logits_rows, hidden_size] in the table's memory. Valid until the next
  // step.
  virtual const float* hidden_states() const = 0;

  // How often each expert of a layer was chosen in the steps finished; empty
  // for a layer without experts.
  virtual std::span<const uint64_t> expert_load(int layer) const = 0;
  // Of the steps finished; of nothing in a model without experts.
  virtual ExpertStats expert_stats() const = 0;
};

// Builds the decoder of checkpoint.config().model_type. The checkpoint must
// outlive it. Unimplemented for an unknown model_type.
absl::StatusOr<std::unique_ptr<Decoder>> MakeDecoder(
    const Checkpoint& checkpoint, const DecoderOptions& options,
    KernelTable& kernels, const LoadProgress& progress);

}  // namespace shoal
