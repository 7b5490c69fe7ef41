#include "server/rpc/grpc_server.h"

#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "boost/asio/thread_pool.hpp"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/impl/service_type.h"
#include "server/rpc/inference_service.h"

namespace shoal {
namespace {

constexpr char kInferenceName[] = "shoal.v1.Inference";

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  if (!file) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": cannot be read as a TLS file"));
  }
  return content.str();
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeCredentials(
    const TlsFiles& tls) {
  if (tls.certificate.empty()) return grpc::InsecureServerCredentials();
  absl::StatusOr<std::string> certificate = ReadFile(tls.certificate);
  if (!certificate.ok()) return certificate.status();
  absl::StatusOr<std::string> key = ReadFile(tls.key);
  if (!key.ok()) return key.status();
  grpc::SslServerCredentialsOptions options;
  options.pem_key_cert_pairs.push_back(
      {*std::move(key), *std::move(certificate)});
  if (!tls.client_ca.empty()) {
    absl::StatusOr<std::string> ca = ReadFile(tls.client_ca);
    if (!ca.ok()) return ca.status();
    options.pem_root_certs = *std::move(ca);
    options.client_certificate_request =
        GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
  }
  return grpc::SslServerCredentials(options);
}

class GrpcServerImpl : public GrpcServer {
 public:
  GrpcServerImpl(const GrpcServerOptions& options, const AdminContext& admin,
                 const ApiKeys& keys, ServerMetrics* metrics)
      : workers_(options.worker_threads),
        inference_(
            MakeInferenceService(admin.generation, keys, metrics, workers_)),
        admin_(MakeAdminService(admin, keys)) {}

  ~GrpcServerImpl() override {
    Shutdown(absl::Now());
    workers_.join();
  }

  absl::Status Listen(const GrpcServerOptions& options, Lifecycle& lifecycle) {
    auto credentials = MakeCredentials(options.tls);
    if (!credentials.ok()) return credentials.status();
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(options.address, *credentials, &port);
    builder.RegisterService(inference_.get());
    builder.RegisterService(admin_.get());
    const auto most = static_cast<int>(options.max_message_bytes);
    builder.SetMaxReceiveMessageSize(most);
    // Without this a second server would quietly share the port.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddChannelArgument(
        GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      return absl::UnavailableError(absl::StrCat(
          "gRPC address ", options.address,
          ": cannot listen there (already in use, or not allowed)"));
    }
    const std::string host =
        options.address.substr(0, options.address.rfind(':'));
    address_ = absl::StrCat(host, ":", port);
    SetServing(lifecycle.state());
    lifecycle.AddListener(
        [this](Lifecycle::State state) { SetServing(state); });
    return absl::OkStatus();
  }

  const std::string& address() const override { return address_; }

  void Shutdown(absl::Time deadline) override {
    if (server_ == nullptr) return;
    server_->Shutdown(absl::ToChronoTime(deadline));
    server_->Wait();
  }

 private:
  void SetServing(Lifecycle::State state) {
    grpc::HealthCheckServiceInterface* health =
        server_->GetHealthCheckService();
    const bool ready = state == Lifecycle::State::kReady;
    for (const char* service : {"", kInferenceName, "readiness"}) {
      health->SetServingStatus(service, ready);
    }
    health->SetServingStatus("liveness", state != Lifecycle::State::kFailed);
  }

  boost::asio::thread_pool workers_;
  const std::unique_ptr<grpc::Service> inference_;
  const std::unique_ptr<grpc::Service> admin_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const GrpcServerOptions& options, const AdminContext& admin,
    const ApiKeys& keys, ServerMetrics* metrics) {
  auto server = std::make_unique<GrpcServerImpl>(options, admin, keys, metrics);
  absl::Status status = server->Listen(options, admin.lifecycle);
  if (!status.ok()) return status;
  return server;
}

}  // namespace shoal
