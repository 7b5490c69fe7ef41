// shoal health: asks a server's grpc.health.v1 whether it serves. For container
// health checks, where no other client is at hand.
#include <cstdio>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "server/cli/channel.h"
#include "server/cli/commands.h"

namespace shoal {
namespace {

struct HealthOptions {
  ChannelOptions channel;
  double timeout_seconds = 2;
};

// The request is an empty HealthCheckRequest; of the response only field 1 of
// value 1 (SERVING) counts: bytes 08 01.
int CheckHealth(const HealthOptions& options) {
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel =
      OpenChannel(options.channel);
  if (!channel.ok()) return Fail(channel.status());
  grpc::GenericStub stub(*channel);
  grpc::ClientContext context;
  const absl::Time deadline =
      absl::Now() + absl::Seconds(options.timeout_seconds);
  context.set_deadline(absl::ToChronoTime(deadline));
  grpc::CompletionQueue queue;
  grpc::ByteBuffer request, response;
  grpc::Slice empty;
  request = grpc::ByteBuffer(&empty, 1);
  auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check",
                                    request, &queue);
  call->StartCall();
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  if (!status.ok()) {
    return Fail(absl::UnavailableError(status.error_message()));
  }
  grpc::Slice bytes;
  response.DumpToSingleSlice(&bytes);
  const std::string content(reinterpret_cast<const char*>(bytes.begin()),
                            bytes.size());
  const bool serving = content == std::string("\x08\x01", 2);
  std::printf("%s\n", serving ? "SERVING" : "NOT_SERVING");
  return serving ? 0 : 1;
}

}  // namespace

Run AddHealthCommand(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("health", "Exit with 0 if a server is ready");
  auto options = std::make_shared<HealthOptions>();
  AddChannelOptions(command, &options->channel);
  command->add_option("--timeout", options->timeout_seconds, "Seconds to wait")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  return [options] { return CheckHealth(*options); };
}

}  // namespace shoal
