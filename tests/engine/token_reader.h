// Asks an engine for tokens and reads its stream to the end. Test support.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/engine.h"

namespace shoal {

// For `max_tokens` greedy tokens, whatever they are.
EngineRequest GreedyRequest(std::vector<int32_t> prompt, size_t max_tokens);

// Every event until the stream is done, in order. Waits without a time limit:
// a test that hangs is stopped by its runner.
std::vector<TokenEvent> ReadEvents(EngineStream& stream);

// The completion of sequence 0. `num_cached_tokens` may be nullptr.
std::vector<int32_t> ReadTokens(EngineStream& stream,
                                int32_t* num_cached_tokens = nullptr);

}  // namespace shoal
