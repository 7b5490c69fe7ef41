// Reads an engine's stream to its end. Test support.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/engine.h"

namespace shoal {

// Every event until the stream is done, in order. Waits without a time limit:
// a test that hangs is stopped by its runner.
std::vector<TokenEvent> ReadEvents(EngineStream& stream);

// The completion of sequence 0. `num_cached_tokens` may be nullptr.
std::vector<int32_t> ReadTokens(EngineStream& stream,
                                int32_t* num_cached_tokens = nullptr);

}  // namespace shoal
