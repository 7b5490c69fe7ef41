// The "lightning indexer" of DeepSeek-V3.2 (arXiv 2512.02556): a small
// attention of its own scores every earlier token, and the main attention reads
// the index_topk best only. Its keys are cached, one row a token.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "engine/loading/model_config.h"
#include "engine/models/block.h"
#include "engine/models/weight_loader.h"

namespace shoal {

class Indexer {
 public:
  // Tensors under `prefix` ("model.layers.3.self_attn.indexer."); its keys are
  // layer `layer` of cache group `group`. `config` must outlive this.
  Indexer(const ModelConfig& config, int group, int layer,
          const std::string& prefix, WeightLoader& loader);

  // Caches the step's keys and chooses for every token. x [num_tokens,
  // hidden_size] and q_latent [num_tokens, q_lora_rank], normalised, are the
  // attention's own inputs. `scratch` as the attention's. The slots that come
  // out index the step's cache rows of any group with a row a token.
  void Select(const StepContext& step, const float* x, const float* q_latent,
              float* scratch, int32_t* slots, int32_t* num_selected);
  // As Select(), without a choice: while the context is no longer than
  // index_topk there is none.
  void CacheKeys(const StepContext& step, const float* x, float* scratch);

  // Floats of `scratch`.
  int64_t ScratchFloats(int64_t num_tokens) const;

 private:
  void Rotate(const StepContext& step, float* rows, int64_t heads) const;

  const ModelConfig& config_;
  const int group_;
  const int layer_;
  std::unique_ptr<PackedMatrix> q_proj_, k_proj_, weights_proj_;
  DeviceArray<float> k_norm_, k_norm_bias_;
};

}  // namespace shoal
