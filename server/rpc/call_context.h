// What every call of ours asks of its gRPC context.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "server/auth.h"

namespace shoal {

// The tenant of the call's key. Unauthenticated without a valid one.
absl::StatusOr<std::string> Authenticate(const grpc::ServerContextBase& context,
                                         const ApiKeys& keys);
// InfiniteFuture for a call without one.
absl::Time Deadline(const grpc::ServerContextBase& context);
// The client's x-request-id if it is fit to be logged, else empty.
std::string RequestId(const grpc::ServerContextBase& context);

}  // namespace shoal
