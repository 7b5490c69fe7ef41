// shoal.v1.Admin: drain, status, drift baseline. Calls need an API key where
// the server has any.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "grpcpp/grpcpp.h"
#include "server/auth.h"
#include "server/drift.h"
#include "server/generation.h"
#include "server/lifecycle.h"

namespace shoal {

struct AdminContext {
  GenerationService& generation;
  Lifecycle& lifecycle;
  DriftMonitor& drift;
  std::string drift_baseline;  // file; empty: none was named
};

// What `context` refers to, and `keys`, must outlive the service.
std::unique_ptr<grpc::Service> MakeAdminService(AdminContext context,
                                                const ApiKeys& keys);

std::string_view LifecycleStateName(Lifecycle::State state);

}  // namespace shoal
