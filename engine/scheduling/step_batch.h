// StepBatch is the input of one forward pass: the new tokens of every sequence
// in it, ragged, never padded. The scheduler fills it; models only read it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace shoal {

// Stands for the token that was drawn for a row of the step before, where that
// is not known yet: a negative number.
constexpr int32_t DrawnToken(int32_t row) { return -1 - row; }
constexpr bool IsDrawnToken(int32_t token) { return token < 0; }
constexpr int32_t RowOfDrawnToken(int32_t token) { return -1 - token; }

struct StepBatch {
  std::vector<int32_t> token_ids;  // [num_tokens], some of them DrawnToken()
  std::vector<int32_t> positions;  // [num_tokens], 0-based in the sequence
  std::vector<int64_t>
      slot_mapping;  // [num_tokens], block_id·block_size+offset
  std::vector<int32_t> cu_seqlens_q;  // [num_seqs + 1], prefix sums of tokens
  std::vector<int32_t> context_lens;  // [num_seqs], new tokens included
  std::vector<int32_t> block_tables;  // [num_seqs, max_blocks], -1 pads rows
  int32_t max_blocks = 0;             // columns of block_tables
  // [num_seqs], each sequence's place among those that run at once: where the
  // cache keeps what is not paged.
  std::vector<int32_t> state_slots;
  // Rows of the hidden states whose logits are wanted, rising.
  std::vector<int32_t> logits_rows;

  int32_t num_tokens() const { return static_cast<int32_t>(token_ids.size()); }
  int32_t num_seqs() const { return static_cast<int32_t>(context_lens.size()); }
  // The most new tokens of a sequence.
  int32_t max_seqlen_q() const {
    int32_t most = 0;
    for (size_t s = 1; s < cu_seqlens_q.size(); ++s) {
      most = std::max(most, cu_seqlens_q[s] - cu_seqlens_q[s - 1]);
    }
    return most;
  }
};

}  // namespace shoal
