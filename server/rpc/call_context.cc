#include "server/rpc/call_context.h"

#include <chrono>
#include <optional>
#include <string_view>

#include "absl/strings/ascii.h"

namespace shoal {
namespace {

std::string_view Header(const grpc::ServerContextBase& context,
                        const char* name) {
  const auto& metadata = context.client_metadata();
  const auto it = metadata.find(name);
  if (it == metadata.end()) return {};
  return {it->second.data(), it->second.size()};
}

}  // namespace

absl::StatusOr<std::string> Authenticate(const grpc::ServerContextBase& context,
                                         const ApiKeys& keys) {
  const std::optional<std::string> tenant =
      keys.Check(ApiKeys::BearerToken(Header(context, "authorization")));
  if (!tenant.has_value()) {
    return absl::UnauthenticatedError(
        "expected metadata \"authorization: Bearer KEY\" with a valid key");
  }
  return *tenant;
}

absl::Time Deadline(const grpc::ServerContextBase& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max()
             ? absl::InfiniteFuture()
             : absl::FromChrono(deadline);
}

std::string RequestId(const grpc::ServerContextBase& context) {
  const std::string_view id = Header(context, "x-request-id");
  if (id.empty() || id.size() > 128) return {};
  for (char c : id) {
    if (!absl::ascii_isalnum(c) && c != '-' && c != '_' && c != '.' &&
        c != ':') {
      return {};
    }
  }
  return std::string(id);
}

}  // namespace shoal
