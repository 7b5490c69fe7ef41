// shoal.v1.Inference over one GenerationService. Calls need an API key where
// the server has any ("authorization: Bearer KEY"). Rendering and tokenising
// run on `workers`, never on gRPC's threads.
#pragma once

#include <memory>

#include "boost/asio/thread_pool.hpp"
#include "grpcpp/grpcpp.h"
#include "server/auth.h"
#include "server/generation.h"
#include "server/metrics.h"

namespace shoal {

// All must outlive the service; `metrics` may be nullptr.
std::unique_ptr<grpc::Service> MakeInferenceService(
    GenerationService& generation, const ApiKeys& keys, ServerMetrics* metrics,
    boost::asio::thread_pool& workers);

}  // namespace shoal
