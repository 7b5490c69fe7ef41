// shoal chat: a conversation in the terminal with a running server, by gRPC.
// Ctrl-C stops the reply under way; at the prompt it ends the program, as does
// the end of input.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

#include "server/cli/channel.h"
#include "server/cli/commands.h"
#include "shoal/v1/inference.grpc.pb.h"

namespace shoal {
namespace {

struct ChatOptions {
  ChannelOptions channel;
  std::string system;
  float temperature = 0.7f;
  float top_p = 0.95f;
  int64_t max_tokens = 0;  // 0: the server's default
};

// Set by Ctrl-C while a reply streams.
std::atomic<bool> interrupted = false;
std::atomic<bool> replying = false;

void OnInterrupt(int) {
  if (replying) {
    interrupted = true;
  } else {
    _exit(130);
  }
}

void AddMessage(const char* role, const std::string& content,
                v1::ChatRequest* request) {
  v1::Message* message = request->add_messages();
  message->set_role(role);
  message->set_content(content);
}

// Streams one reply to stdout and returns its text.
absl::StatusOr<std::string> Reply(v1::Inference::Stub& stub,
                                  const ChatOptions& options,
                                  const v1::ChatRequest& request) {
  grpc::ClientContext context;
  absl::Status key = AddApiKey(options.channel, &context);
  if (!key.ok()) return key;
  interrupted = false;
  replying = true;
  auto reader = stub.Chat(&context, request);
  v1::ChatResponse response;
  std::string text;
  bool reasoning = false;
  while (reader->Read(&response)) {
    if (interrupted) context.TryCancel();
    if (!response.reasoning().empty()) {
      if (!reasoning) std::fputs("(thinking) ", stdout);
      reasoning = true;
      std::fputs(response.reasoning().c_str(), stdout);
    }
    if (!response.content().empty()) {
      if (reasoning) std::fputs("\n\n", stdout);
      reasoning = false;
      text += response.content();
      std::fputs(response.content().c_str(), stdout);
    }
    std::fflush(stdout);
  }
  replying = false;
  const grpc::Status status = reader->Finish();
  std::fputs("\n", stdout);
  if (!status.ok() &&
      !(interrupted && status.error_code() == grpc::StatusCode::CANCELLED)) {
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        status.error_message());
  }
  return text;
}

int Chat(const ChatOptions& options) {
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel =
      OpenChannel(options.channel);
  if (!channel.ok()) return Fail(channel.status());
  const auto stub = v1::Inference::NewStub(*channel);
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;
  sigaction(SIGINT, &action, nullptr);

  v1::ChatRequest request;
  request.mutable_sampling()->set_temperature(options.temperature);
  request.mutable_sampling()->set_top_p(options.top_p);
  if (options.max_tokens > 0) {
    request.mutable_stopping()->set_max_tokens(options.max_tokens);
  }
  if (!options.system.empty()) AddMessage("system", options.system, &request);
  const bool terminal = isatty(STDIN_FILENO) != 0;
  std::string line;
  while (true) {
    if (terminal) std::fputs("> ", stdout);
    std::fflush(stdout);
    if (!std::getline(std::cin, line)) break;
    if (line.empty()) continue;
    AddMessage("user", line, &request);
    absl::StatusOr<std::string> reply = Reply(*stub, options, request);
    if (!reply.ok()) {
      if (!terminal) return Fail(reply.status());
      Fail(reply.status());
      request.mutable_messages()->RemoveLast();
      continue;
    }
    AddMessage("assistant", *reply, &request);
  }
  if (terminal) std::fputs("\n", stdout);
  return 0;
}

}  // namespace

Run AddChatCommand(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "chat", "Talk to a running server (Ctrl-C stops a reply)");
  auto options = std::make_shared<ChatOptions>();
  AddChannelOptions(command, &options->channel);
  command->add_option("--system", options->system, "System prompt");
  command->add_option("--temperature", options->temperature, "0: greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command->add_option("--top-p", options->top_p, "Nucleus of the distribution")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command
      ->add_option("--max-tokens", options->max_tokens,
                   "Most tokens of a reply; 0: up to the context's end")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  return [options] { return Chat(*options); };
}

}  // namespace shoal
