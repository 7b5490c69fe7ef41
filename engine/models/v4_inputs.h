// What DeepSeek-V4's layers read of a step's batch beyond StepInputs: lists of
// rows that depend on positions and slots only, and so are the same in every
// layer of a kind.
#pragma once

#include <cstdint>

#include "engine/cache/paged_cache.h"
#include "engine/loading/model_config.h"
#include "engine/models/rope.h"
#include "engine/models/step_inputs.h"

namespace shoal {

// Rows that each token attends to.
struct SlotLists {
  const int32_t* slots = nullptr;   // [num_tokens, max_keys]
  const int32_t* counts = nullptr;  // [num_tokens]
  int32_t max_keys = 0;
};

// Compressed entries of one ratio.
struct CompressInputs {
  const int32_t* num_visible = nullptr;  // [num_tokens], entries a token sees
  // Windows that close in this step, in the order of their last tokens.
  int64_t num_closed = 0;
  const int64_t* slots = nullptr;  // [num_closed], rows of the cache
  RopeAngles rope;                 // [num_closed], of their first positions
};

struct V4Inputs {
  RopeAngles compress_rope;  // of tokens, in layers with a ratio
  SlotLists ring;            // of the window: keys of earlier steps
  SlotLists fresh;           // and of this one, rows of its own keys
  SlotLists entries;         // every entry of ratio kLongRatio
  // [num_tokens], where the ring keeps each key; -1: later steps do not see it.
  const int64_t* ring_slots = nullptr;
  const int64_t* fresh_slots = nullptr;  // 0, 1, 2, ... [num_tokens]
  // [num_tokens · hc_mult], the token that each stream is of.
  const int32_t* stream_tokens = nullptr;
  // [num_tokens · o_groups], where row (token, group) lies by (group, token).
  const int32_t* group_rows = nullptr;
  CompressInputs overlapping;  // of ratio kOverlapRatio
  CompressInputs longest;      // of ratio kLongRatio

  const CompressInputs& of_ratio(int32_t ratio) const {
    return ratio == kOverlapRatio ? overlapping : longest;
  }
};

// Pointers as StageBatch(). `rope` is that of layers with a ratio. Ratios that
// no layer has are left out.
V4Inputs StageV4(const StepBatch& batch, const ModelConfig& config,
                 const RotaryEmbedding& rope, const PagedCache& cache,
                 InputStaging& staging);

}  // namespace shoal
