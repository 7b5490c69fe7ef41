// StepInputs is a step's batch as ops see it: the arrays of StepBatch, and what
// all layers make of them alike, in the kernel table's memory.
#pragma once

#include <cstdint>
#include <span>

#include "engine/models/input_staging.h"
#include "engine/models/rope.h"
#include "engine/scheduling/step_batch.h"

namespace shoal {

// Cosines and sines of tokens' positions, the attention factor in both.
struct RopeAngles {
  const float* cos = nullptr;  // [num_tokens, rotary_dim / 2]
  const float* sin = nullptr;  // like cos
};

// Valid until the staging's next Begin(), readable after its Upload().
struct StepInputs {
  // As in StepBatch; DrawnToken() have yet to be put in (LogitsHead).
  int64_t num_tokens = 0;
  int32_t* token_ids = nullptr;
  const int32_t* positions = nullptr;
  const int64_t* slot_mapping = nullptr;
  const int32_t* cu_seqlens_q = nullptr;
  int32_t max_seqlen_q = 0;  // StepBatch::max_seqlen_q()
  const int32_t* context_lens = nullptr;
  const int32_t* block_tables = nullptr;
  const int32_t* state_slots = nullptr;
  const int32_t* logits_rows = nullptr;

  const int32_t* num_visible = nullptr;  // [num_tokens], positions + 1
  const int32_t* rows = nullptr;         // 0, 1, 2, ... [num_rows]
  RopeAngles rope;

  // Places in token_ids that wait for what was drawn, and for which row.
  int64_t num_drawn = 0;
  const int32_t* drawn_places = nullptr;  // [num_drawn]
  const int32_t* drawn_rows = nullptr;    // [num_drawn]
};

// `num_rows` >= batch.num_tokens().
StepInputs StageBatch(const StepBatch& batch, const RotaryEmbedding& rope,
                      int64_t num_rows, InputStaging& staging);

RopeAngles StageAngles(const RotaryEmbedding& rope,
                       std::span<const int32_t> positions,
                       InputStaging& staging);

}  // namespace shoal
