#include "engine/models/v4_inputs.h"

#include <algorithm>
#include <numeric>

namespace shoal {
namespace {

// SlotLists being written.
class ListWriter {
 public:
  ListWriter(int64_t num_tokens, int32_t max_keys, InputStaging& staging)
      : slots_(staging.Take<int32_t>(num_tokens * max_keys)),
        counts_(staging.Take<int32_t>(num_tokens)),
        max_keys_(max_keys) {
    std::fill_n(counts_.host, num_tokens, 0);
  }
  void Add(int64_t token, int32_t slot) {
    slots_.host[token * max_keys_ + counts_.host[token]++] = slot;
  }
  SlotLists lists() const { return {slots_.device, counts_.device, max_keys_}; }

 private:
  const StagedArray<int32_t> slots_, counts_;
  const int32_t max_keys_;
};

// Keys of the window: those of earlier steps in the ring, then the step's own.
void StageWindow(const StepBatch& batch, int32_t window, InputStaging& staging,
                 V4Inputs* inputs) {
  const int32_t num_tokens = batch.num_tokens();
  ListWriter ring(num_tokens, window, staging);
  ListWriter fresh(num_tokens, window, staging);
  const auto ring_slots = staging.Take<int64_t>(num_tokens);
  const auto fresh_slots = staging.Take<int64_t>(num_tokens);
  std::iota(fresh_slots.host, fresh_slots.host + num_tokens, 0);
  for (int32_t s = 0; s < batch.num_seqs(); ++s) {
    const int32_t begin = batch.cu_seqlens_q[s];
    const int32_t end = batch.cu_seqlens_q[s + 1];
    const int32_t start = batch.positions[begin];  // first one of this step
    const int32_t base = batch.state_slots[s] * window;
    for (int32_t t = begin; t < end; ++t) {
      const int32_t last = batch.positions[t];
      for (int32_t p = std::max(0, last - window + 1); p <= last; ++p) {
        if (p < start) {
          ring.Add(t, base + p % window);
        } else {
          fresh.Add(t, begin + p - start);
        }
      }
      // Of a sequence's step the last `window` rows stay.
      ring_slots.host[t] =
          t < end - window ? -1 : int64_t{base} + last % window;
    }
  }
  inputs->ring = ring.lists();
  inputs->fresh = fresh.lists();
  inputs->ring_slots = ring_slots.device;
  inputs->fresh_slots = fresh_slots.device;
}

CompressInputs StageCompress(const StepBatch& batch, int32_t ratio,
                             const RotaryEmbedding& rope,
                             InputStaging& staging) {
  CompressInputs inputs;
  const auto visible = staging.Take<int32_t>(batch.num_tokens());
  inputs.num_closed = std::count_if(
      batch.positions.begin(), batch.positions.end(),
      [ratio](int32_t position) { return (position + 1) % ratio == 0; });
  const auto first_positions = staging.Take<int32_t>(inputs.num_closed);
  const auto slots = staging.Take<int64_t>(inputs.num_closed);
  int64_t closed = 0;
  // A block's size is a multiple of the ratio, so an entry's place is its last
  // token's, in rows of `ratio` tokens.
  for (int32_t t = 0; t < batch.num_tokens(); ++t) {
    const int32_t end = batch.positions[t] + 1;
    visible.host[t] = end / ratio;
    if (end % ratio != 0) continue;
    first_positions.host[closed] = end - ratio;
    slots.host[closed++] = batch.slot_mapping[t] / ratio;
  }
  inputs.num_visible = visible.device;
  inputs.slots = slots.device;
  inputs.rope = StageAngles(
      rope, {first_positions.host, static_cast<size_t>(closed)}, staging);
  return inputs;
}

SlotLists StageEntries(const StepBatch& batch, int32_t ratio,
                       const PagedCache& cache, InputStaging& staging) {
  const int32_t per_block = cache.block_size() / ratio;
  int32_t most = 0;
  for (const int32_t position : batch.positions) {
    most = std::max(most, (position + 1) / ratio);
  }
  ListWriter entries(batch.num_tokens(), most, staging);
  for (int32_t s = 0; s < batch.num_seqs(); ++s) {
    const int32_t* table =
        batch.block_tables.data() + int64_t{s} * batch.max_blocks;
    for (int32_t t = batch.cu_seqlens_q[s]; t < batch.cu_seqlens_q[s + 1];
         ++t) {
      const int32_t visible = (batch.positions[t] + 1) / ratio;
      for (int32_t w = 0; w < visible; ++w) {
        entries.Add(t, table[w / per_block] * per_block + w % per_block);
      }
    }
  }
  return entries.lists();
}

void StageRows(int32_t num_tokens, const ModelConfig& config,
               InputStaging& staging, V4Inputs* inputs) {
  const auto streams = static_cast<int32_t>(config.hc_mult);
  const auto stream_tokens =
      staging.Take<int32_t>(int64_t{num_tokens} * streams);
  for (int32_t row = 0; row < num_tokens * streams; ++row) {
    stream_tokens.host[row] = row / streams;
  }
  inputs->stream_tokens = stream_tokens.device;
  const auto groups = static_cast<int32_t>(config.o_groups);
  const auto group_rows = staging.Take<int32_t>(int64_t{num_tokens} * groups);
  for (int32_t t = 0; t < num_tokens; ++t) {
    for (int32_t g = 0; g < groups; ++g) {
      group_rows.host[t * groups + g] = g * num_tokens + t;
    }
  }
  inputs->group_rows = group_rows.device;
}

}  // namespace

V4Inputs StageV4(const StepBatch& batch, const ModelConfig& config,
                 const RotaryEmbedding& rope, const PagedCache& cache,
                 InputStaging& staging) {
  V4Inputs inputs;
  inputs.compress_rope = StageAngles(rope, batch.positions, staging);
  StageWindow(batch, static_cast<int32_t>(config.sliding_window), staging,
              &inputs);
  StageRows(batch.num_tokens(), config, staging, &inputs);
  const auto has = [&](int32_t ratio) {
    const auto first = config.compress_ratios.begin();
    const auto last = first + config.num_hidden_layers;
    return std::find(first, last, ratio) != last;
  };
  if (has(kOverlapRatio)) {
    inputs.overlapping = StageCompress(batch, kOverlapRatio, rope, staging);
  }
  if (has(kLongRatio)) {
    inputs.longest = StageCompress(batch, kLongRatio, rope, staging);
    inputs.entries = StageEntries(batch, kLongRatio, cache, staging);
  }
  return inputs;
}

}  // namespace shoal
