// What the step thread keeps of a request while it runs or waits.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/sampling/sampler.h"
#include "engine/scheduling/sequence.h"
#include "engine/stream_core.h"

namespace shoal {

struct ActiveRequest;

// One of a request's n sequences.
struct Run : Sequence {
  ActiveRequest* request = nullptr;
  int32_t index = 0;
  std::unique_ptr<Sampler> sampler;
  // Siblings wait until the first sequence has computed the prompt they share,
  // and then find it in the prefix cache.
  bool scheduled = false;
  bool finished = false;
  absl::Time last_token;
  TokenEvent event;  // what the step under way has produced
  bool has_event = false;

  // What is being drawn included.
  int32_t num_completion_tokens() const {
    return num_tokens() - num_prompt_tokens;
  }
};

struct ActiveRequest {
  uint64_t id = 0;
  EngineRequest spec;
  std::shared_ptr<StreamCore> stream;
  std::vector<std::unique_ptr<Run>> runs;
  int32_t num_prompt_rows = 0;  // prompt positions whose logits were chosen
  int32_t num_unfinished = 0;
  FinishReason reason = FinishReason::kStop;  // the worst of its sequences
  absl::Time submitted;
  std::optional<absl::Time> first_scheduled;
  std::optional<absl::Time> first_token;
  absl::Time last_token;
};

}  // namespace shoal
