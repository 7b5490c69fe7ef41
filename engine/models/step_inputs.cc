#include "engine/models/step_inputs.h"

#include <numeric>
#include <vector>

namespace shoal {

RopeAngles StageAngles(const RotaryEmbedding& rope,
                       std::span<const int32_t> positions,
                       InputStaging& staging) {
  const auto count =
      static_cast<int64_t>(positions.size()) * rope.rotary_dim() / 2;
  const auto cos = staging.Take<float>(count);
  const auto sin = staging.Take<float>(count);
  rope.Fill(positions, cos.host, sin.host);
  return {cos.device, sin.device};
}

namespace {

void StageDrawn(const StepBatch& batch, InputStaging& staging,
                StepInputs* inputs) {
  std::vector<int32_t> places, rows;
  for (int32_t t = 0; t < batch.num_tokens(); ++t) {
    const int32_t token = batch.token_ids[t];
    if (!IsDrawnToken(token)) continue;
    places.push_back(t);
    rows.push_back(RowOfDrawnToken(token));
  }
  inputs->num_drawn = static_cast<int64_t>(places.size());
  inputs->drawn_places = staging.Copy(places);
  inputs->drawn_rows = staging.Copy(rows);
}

}  // namespace

StepInputs StageBatch(const StepBatch& batch, const RotaryEmbedding& rope,
                      int64_t num_rows, InputStaging& staging) {
  StepInputs inputs;
  inputs.num_tokens = batch.num_tokens();
  inputs.token_ids = staging.Copy(batch.token_ids);
  inputs.positions = staging.Copy(batch.positions);
  inputs.slot_mapping = staging.Copy(batch.slot_mapping);
  inputs.cu_seqlens_q = staging.Copy(batch.cu_seqlens_q);
  inputs.max_seqlen_q = batch.max_seqlen_q();
  inputs.context_lens = staging.Copy(batch.context_lens);
  inputs.block_tables = staging.Copy(batch.block_tables);
  inputs.state_slots = staging.Copy(batch.state_slots);
  inputs.logits_rows = staging.Copy(batch.logits_rows);
  const auto visible = staging.Take<int32_t>(batch.num_tokens());
  for (int32_t t = 0; t < batch.num_tokens(); ++t) {
    visible.host[t] = batch.positions[t] + 1;
  }
  inputs.num_visible = visible.device;
  const auto rows = staging.Take<int32_t>(num_rows);
  std::iota(rows.host, rows.host + num_rows, 0);
  inputs.rows = rows.device;
  inputs.rope = StageAngles(rope, batch.positions, staging);
  // Last, so that the others lie where they did in a step without.
  StageDrawn(batch, staging, &inputs);
  return inputs;
}

}  // namespace shoal
