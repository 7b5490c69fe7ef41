// Flags of every command that runs a model.
#pragma once

#include "CLI/CLI.hpp"
#include "server/open_model.h"

namespace shoal {

// MODEL, --threads, --device, --cpu-isa, --weight-cache,
// --expert-memory, --expert-placement, --expert-capacity-factor, --index-topk.
void AddComputeFlags(CLI::App* command, ModelOptions* options);

// Those and --dtype, --no-batch-invariant, --kv-cache-dtype.
void AddModelFlags(CLI::App* command, ModelOptions* options);

}  // namespace shoal
