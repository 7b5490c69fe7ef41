#include "server/server.h"

#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/drift.h"
#include "server/generation.h"
#include "server/http/http_server.h"
#include "server/http/routes.h"
#include "server/lifecycle.h"
#include "server/metrics.h"
#include "server/open_model.h"
#include "server/rpc/grpc_server.h"
#include "spdlog/spdlog.h"

namespace shoal {
namespace {

// How often the main thread looks whether the engine still lives.
constexpr timespec kWatchInterval = {0, 200'000'000};
// What cancelled requests get to send their last message.
constexpr absl::Duration kCutGrace = absl::Seconds(2);

// "dir/Model.Q4_1.gguf" -> "Model.Q4_1"; a folder gives its name.
std::string NameFromPath(const std::string& path) {
  std::filesystem::path name = std::filesystem::path(path).lexically_normal();
  if (!name.has_filename()) name = name.parent_path();
  std::string text = name.filename().string();
  if (text.ends_with(".gguf")) text.resize(text.size() - 5);
  return text.empty() ? "model" : text;
}

class Server {
 public:
  explicit Server(const ServeOptions& options) : options_(options) {}

  absl::Status Start();
  // Until a signal comes or the engine fails.
  absl::Status Watch(const sigset_t& signals);
  void Drain(const sigset_t& signals);

 private:
  absl::Status LoadModel();
  absl::Status OpenPorts();
  void PrintAddresses() const;

  const ServeOptions options_;
  Lifecycle lifecycle_;
  ApiKeys keys_;
  OpenedModel model_;
  std::unique_ptr<ModelText> text_;
  std::unique_ptr<DriftMonitor> drift_;
  std::unique_ptr<ServerMetrics> metrics_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<GenerationService> generation_;
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<HttpServer> http_;
};

absl::Status Server::LoadModel() {
  const absl::Time start = absl::Now();
  ModelOptions model_options = options_.model;
  EngineOptions engine_options = options_.engine;
  int32_t& step_tokens = engine_options.max_num_batched_tokens;
  model_options.max_tokens_per_step =  // 0: as many as suit the device
      step_tokens > 0 ? std::max(step_tokens, engine_options.max_num_seqs) : 0;
  absl::StatusOr<OpenedModel> model = OpenModel(model_options);
  if (!model.ok()) return model.status();
  model_ = *std::move(model);
  if (step_tokens == 0) step_tokens = model_.max_tokens_per_step;
  absl::StatusOr<std::unique_ptr<ModelText>> text =
      ModelText::Load(*model_.checkpoint);
  if (!text.ok()) return text.status();
  text_ = *std::move(text);

  ModelInfo info;
  info.served_names = options_.served_model_names;
  if (info.served_names.empty()) {
    info.served_names.push_back(NameFromPath(options_.model.path));
  }
  info.path = options_.model.path;
  info.loaded_at = absl::Now();
  const std::string name = info.served_names.front();

  DriftOptions drift_options;
  drift_options.model_name = name;
  drift_ = std::make_unique<DriftMonitor>(drift_options);
  if (!options_.drift_baseline.empty()) {
    absl::Status loaded = drift_->LoadBaseline(options_.drift_baseline);
    // One that is not there yet will be recorded by command.
    if (!loaded.ok() && !absl::IsNotFound(loaded)) return loaded;
  }

  const std::string isa(model_.kernels->name());
  const int threads = model_.kernels->num_threads();
  MetricsOptions metrics_options;
  metrics_options.model_name = name;
  metrics_options.device = model_.kernels->memory_is_host() ? "cpu" : isa;
  metrics_options.cpu_isa = isa;
  const ModelConfig& config = model_.decoder->config();
  metrics_options.max_model_len =
      options_.engine.max_model_len > 0
          ? options_.engine.max_model_len
          : static_cast<int32_t>(config.max_position_embeddings);
  metrics_ = ServerMetrics::Create(metrics_options, drift_.get());
  absl::StatusOr<std::unique_ptr<Engine>> engine =
      MakeEngine(std::move(model_.decoder), engine_options, *model_.kernels,
                 metrics_.get());
  if (!engine.ok()) return engine.status();
  engine_ = *std::move(engine);
  metrics_->SetSnapshotSource([this] { return engine_->Snapshot(); });
  const EngineSnapshot snapshot = engine_->Snapshot();
  info.max_model_len = snapshot.max_model_len;
  generation_ = MakeGenerationService(*engine_, *text_, info, metrics_.get());
  spdlog::info(
      "{}: ready in {:.2f} s on {} threads ({}); weights {:.1f} MB, KV cache "
      "{} blocks of {} tokens ({:.1f} MB), context {} tokens",
      name, absl::ToDoubleSeconds(absl::Now() - start), threads, isa,
      static_cast<double>(snapshot.weight_bytes) / 1e6, snapshot.total_blocks,
      snapshot.block_size, static_cast<double>(snapshot.cache_bytes) / 1e6,
      snapshot.max_model_len);
  return absl::OkStatus();
}

absl::Status Server::OpenPorts() {
  GrpcServerOptions grpc_options;
  grpc_options.address = options_.grpc_address;
  grpc_options.tls = options_.tls;
  grpc_options.max_message_bytes = options_.max_body_bytes;
  const AdminContext admin = {*generation_, lifecycle_, *drift_,
                              options_.drift_baseline};
  absl::StatusOr<std::unique_ptr<GrpcServer>> grpc =
      GrpcServer::Start(grpc_options, admin, keys_, metrics_.get());
  if (!grpc.ok()) return grpc.status();
  grpc_ = *std::move(grpc);

  HttpServerOptions http_options;
  http_options.address = options_.http_address;
  http_options.tls = options_.tls;
  http_options.max_body_bytes = options_.max_body_bytes;
  http_options.max_connections = options_.max_connections;
  http_options.cors_allowed_origins = options_.cors_allowed_origins;
  absl::StatusOr<std::unique_ptr<HttpServer>> http = HttpServer::Start(
      http_options, MakeRoutes(*generation_, lifecycle_, *metrics_), keys_);
  if (!http.ok()) return http.status();
  http_ = *std::move(http);
  return absl::OkStatus();
}

absl::Status Server::Start() {
  if (!options_.api_key_file.empty()) {
    absl::StatusOr<ApiKeys> keys = ApiKeys::Load(options_.api_key_file);
    if (!keys.ok()) return keys.status();
    keys_ = *std::move(keys);
  }
  absl::Status status = LoadModel();
  if (!status.ok()) return status;
  status = OpenPorts();
  if (!status.ok()) return status;
  lifecycle_.Set(Lifecycle::State::kReady);
  PrintAddresses();
  return absl::OkStatus();
}

void Server::PrintAddresses() const {
  const std::string url = http_->url();
  const std::string name = generation_->model_info().served_names.front();
  const char* tls = options_.tls.certificate.empty() ? "-plaintext " : "";
  std::printf(
      "serving %s\n"
      "  gRPC       %s\n"
      "             grpcurl %s-d '{\"messages\":[{\"role\":\"user\","
      "\"content\":\"Hello\"}]}' %s shoal.v1.Inference/Chat\n"
      "  HTTP       %s/v1\n"
      "             curl %s/v1/chat/completions -H 'Content-Type: "
      "application/json' -d '{\"messages\":[{\"role\":\"user\","
      "\"content\":\"Hello\"}]}'\n"
      "  chat page  %s/\n"
      "             open it in a browser, or run: shoal chat --address %s\n"
      "  metrics    %s/metrics\n"
      "             curl %s/metrics\n",
      name.c_str(), grpc_->address().c_str(), tls, grpc_->address().c_str(),
      url.c_str(), url.c_str(), url.c_str(), grpc_->address().c_str(),
      url.c_str(), url.c_str());
  std::fflush(stdout);
}

absl::Status Server::Watch(const sigset_t& signals) {
  while (true) {
    const int signal = sigtimedwait(&signals, nullptr, &kWatchInterval);
    if (signal > 0) {
      spdlog::info("signal {}: draining for up to {} s", signal,
                   options_.drain_seconds);
      return absl::OkStatus();
    }
    absl::Status health = engine_->Snapshot().health;
    if (!health.ok()) {
      lifecycle_.Set(Lifecycle::State::kFailed);
      return health;
    }
  }
}

void Server::Drain(const sigset_t& signals) {
  if (lifecycle_.alive()) lifecycle_.Set(Lifecycle::State::kDraining);
  engine_->StartDrain();
  const absl::Time deadline =
      absl::Now() + absl::Seconds(options_.drain_seconds);
  while (!engine_->AwaitIdle(
      std::min(deadline, absl::Now() + absl::Milliseconds(200)))) {
    const timespec now = {0, 0};
    if (absl::Now() >= deadline) break;
    if (sigtimedwait(&signals, nullptr, &now) > 0) break;
  }
  engine_->CancelAll();
  http_->StopAccepting();
  grpc_->Shutdown(absl::Now() + kCutGrace);
  const absl::Time cut = absl::Now() + kCutGrace;
  while (http_->num_connections() > 0 && absl::Now() < cut) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  http_->Shutdown();
}

}  // namespace

absl::Status RunServer(const ServeOptions& options) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  Server server(options);
  absl::Status status = server.Start();
  if (!status.ok()) return status;
  status = server.Watch(signals);
  server.Drain(signals);
  if (status.ok()) spdlog::info("stopped");
  return status;
}

}  // namespace shoal
