// Server puts everything together and runs it: model, engine, metrics, both
// ports, life cycle. Start order is the order of what needs what; stopping goes
// backwards: not ready at once, running requests finish within the drain time,
// the rest is cancelled, ports close, the engine ends.
#pragma once

#include "absl/status/status.h"
#include "server/options.h"

namespace shoal {

// Serves until SIGTERM or SIGINT, then drains; a second signal ends at once.
// OK after a drain. An error when it cannot start, or when the engine failed.
// Blocks these signals for all threads of the process; call once, from main.
absl::Status RunServer(const ServeOptions& options);

}  // namespace shoal
