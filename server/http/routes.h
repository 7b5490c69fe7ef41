// The table of what the HTTP port serves:
//   POST /v1/chat/completions, /v1/completions       OpenAI, with vLLM's extras
//   GET  /v1/models, /v1/models/{id}
//   POST /tokenize, /detokenize                      vLLM's
//   GET  /health, /ready, /metrics, /version         open to all
//   GET  / and its files                             the chat page, open to all
#pragma once

#include <vector>

#include "server/generation.h"
#include "server/http/router.h"
#include "server/lifecycle.h"
#include "server/metrics.h"

namespace shoal {

// All three must outlive the router. A generation request that does not reach
// GenerationService::Start() is counted as received and rejected here.
Router MakeRoutes(GenerationService& service, Lifecycle& lifecycle,
                  ServerMetrics& metrics);

// Parts of the table, one a source file.
std::vector<Route> GenerationRoutes(GenerationService& service,
                                    Lifecycle& lifecycle,
                                    ServerMetrics& metrics);
std::vector<Route> ModelRoutes(GenerationService& service);
std::vector<Route> StatusRoutes(Lifecycle& lifecycle, ServerMetrics& metrics);
std::vector<Route> PageRoutes();

}  // namespace shoal
