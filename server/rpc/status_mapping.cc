#include "server/rpc/status_mapping.h"

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace shoal {

grpc::Status ToGrpcStatus(const absl::Status& status,
                          grpc::ServerContextBase& context) {
  if (status.ok()) return grpc::Status::OK;
  const std::string code = ErrorCode(status);
  const std::string param = ErrorParam(status);
  if (!code.empty()) context.AddTrailingMetadata("shoal-error-code", code);
  // Metadata is ASCII; parameter names of ours are.
  if (!param.empty() && PrintableText(param) == param) {
    context.AddTrailingMetadata("shoal-error-param", param);
  }
  if (const std::optional<absl::Duration> delay = RetryAfter(status)) {
    context.AddTrailingMetadata(
        "grpc-retry-pushback-ms",
        absl::StrCat(absl::ToInt64Milliseconds(*delay)));
  }
  return grpc::Status(
      static_cast<grpc::StatusCode>(static_cast<int>(status.code())),
      PrintableText(std::string(status.message()), 1000));
}

}  // namespace shoal
