#include "tests/engine/token_reader.h"

#include <optional>
#include <utility>

#include "absl/synchronization/mutex.h"

namespace shoal {

EngineRequest GreedyRequest(std::vector<int32_t> prompt, size_t max_tokens) {
  EngineRequest request;
  request.prompt_token_ids = std::move(prompt);
  request.sampling.temperature = 0;
  request.sampling.max_tokens = static_cast<int64_t>(max_tokens);
  request.sampling.ignore_eos = true;
  return request;
}

std::vector<TokenEvent> ReadEvents(EngineStream& stream) {
  absl::Mutex mutex;
  bool ready = false;
  stream.SetNotify([&] {
    absl::MutexLock lock(&mutex);
    ready = true;
  });
  std::vector<TokenEvent> events;
  while (!stream.done()) {
    {
      absl::MutexLock lock(&mutex);
      mutex.Await(absl::Condition(&ready));
      ready = false;
    }
    while (std::optional<TokenEvent> event = stream.TryNext()) {
      events.push_back(*std::move(event));
    }
  }
  stream.SetNotify(nullptr);
  return events;
}

std::vector<int32_t> ReadTokens(EngineStream& stream,
                                int32_t* num_cached_tokens) {
  std::vector<int32_t> tokens;
  bool first = true;
  for (const TokenEvent& event : ReadEvents(stream)) {
    if (event.index != 0) continue;
    if (first && num_cached_tokens != nullptr) {
      *num_cached_tokens = event.num_cached_tokens;
    }
    first = false;
    tokens.insert(tokens.end(), event.token_ids.begin(), event.token_ids.end());
  }
  return tokens;
}

}  // namespace shoal
