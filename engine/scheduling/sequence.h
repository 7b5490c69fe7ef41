// Sequence is what the scheduler knows of one stream of tokens: plain data, one
// owner (its request), touched by the step thread only.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace shoal {

struct Sequence {
  // Prompt, then completion, which ends in a DrawnToken() (step_batch.h) while
  // the step that draws it is under way.
  std::vector<int32_t> token_ids;
  int32_t num_prompt_tokens = 0;
  // Leading tokens whose cache rows exist. All but the last token are computed
  // while decoding.
  int32_t num_computed_tokens = 0;
  std::vector<int32_t> block_table;  // ids, in the order of the tokens

  uint64_t arrival = 0;  // rising with each new sequence; decides age
  int32_t priority = 0;  // smaller runs earlier
  absl::Time deadline = absl::InfiniteFuture();
  std::string cache_salt;
  bool use_prefix_cache = true;
  // Most tokens of it that one step prefills, so that what a step makes of them
  // stays small.
  int32_t max_chunk_tokens = std::numeric_limits<int32_t>::max();

  // Held while its reader does not keep up or its last token is under way:
  // keeps its blocks, takes no step.
  bool paused = false;
  bool running = false;     // holds a place in the batch
  int32_t state_slot = -1;  // which place, while it runs
  // Set while waiting; see waiting_queue.h.
  int64_t work_ahead = 0;
  int64_t overtaken = 0;
  int32_t num_skips = 0;
  int32_t num_cached_tokens = 0;  // of the prompt, when it was first admitted
  bool admitted_before = false;

  int32_t num_tokens() const { return static_cast<int32_t>(token_ids.size()); }
  int32_t num_uncomputed_tokens() const {
    return num_tokens() - num_computed_tokens;
  }
  bool decoding() const {
    return num_computed_tokens >= num_prompt_tokens &&
           num_uncomputed_tokens() == 1;
  }
};

}  // namespace shoal
