// absl::Status to gRPC's, which has the same codes. Payloads of server/errors.h
// become trailing metadata: "shoal-error-code", "shoal-error-param", and for a
// refusal that may be retried gRPC's own "grpc-retry-pushback-ms".
#pragma once

#include "absl/status/status.h"
#include "grpcpp/grpcpp.h"

namespace shoal {

// `context`: of the call that ends with this status.
grpc::Status ToGrpcStatus(const absl::Status& status,
                          grpc::ServerContextBase& context);

}  // namespace shoal
