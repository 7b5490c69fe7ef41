#include <memory>
#include <utility>

#include "server/errors.h"
#include "server/http/api_error.h"
#include "server/http/openai_reply.h"
#include "server/http/openai_request.h"
#include "server/http/routes.h"

namespace shoal {
namespace {

absl::Status CheckServing(const Lifecycle& lifecycle) {
  switch (lifecycle.state()) {
    case Lifecycle::State::kReady:
      return absl::OkStatus();
    case Lifecycle::State::kStarting:
      return WithRetryAfter(
          WithDetail(absl::UnavailableError("The model is being loaded"), "",
                     "starting"),
          absl::Seconds(5));
    case Lifecycle::State::kDraining:
      return WithRetryAfter(
          WithDetail(absl::UnavailableError("The server is shutting down"), "",
                     "draining"),
          absl::Seconds(1));
    default:
      return WithDetail(absl::UnavailableError("The engine has failed"), "",
                        "failed");
  }
}

using Parser = absl::StatusOr<OpenAiRequest> (*)(const HttpRequest&);

Reply Generate(const HttpRequest& http, Parser parse,
               GenerationService& service, const Lifecycle& lifecycle,
               ServerMetrics& metrics) {
  const absl::Status serving = CheckServing(lifecycle);
  absl::StatusOr<OpenAiRequest> request =
      serving.ok() ? parse(http) : absl::StatusOr<OpenAiRequest>(serving);
  if (!request.ok()) {
    metrics.OnRequestReceived();
    metrics.OnRequestEnded(RequestOutcome::kRejected);
    return ApiError(request.status());
  }
  const GenerationRequest& first = request->generations[0];
  OpenAiReplyOptions options;
  options.chat = request->chat;
  options.stream = request->stream;
  options.include_usage = request->include_usage;
  options.logprobs = first.sampling.logprobs >= 0;
  options.prompt_logprobs = first.sampling.prompt_logprobs >= 0;
  options.n = first.n;
  options.model = service.model_info().served_names[0];
  std::vector<std::unique_ptr<Generation>> generations;
  for (GenerationRequest& generation : request->generations) {
    auto started = service.Start(std::move(generation));
    // Those already started are cancelled as they go.
    if (!started.ok()) return ApiError(started.status());
    generations.push_back(*std::move(started));
  }
  return MakeOpenAiReply(std::move(generations), std::move(options));
}

}  // namespace

std::vector<Route> GenerationRoutes(GenerationService& service,
                                    Lifecycle& lifecycle,
                                    ServerMetrics& metrics) {
  const auto handler = [&](Parser parse) -> HttpHandler {
    return [&service, &lifecycle, &metrics, parse](const HttpRequest& request) {
      return Generate(request, parse, service, lifecycle, metrics);
    };
  };
  return {{"POST", "/v1/chat/completions", Access::kKey, RunOn::kWorker,
           handler(ParseChatRequest)},
          {"POST", "/v1/completions", Access::kKey, RunOn::kWorker,
           handler(ParseCompletionRequest)}};
}

}  // namespace shoal
