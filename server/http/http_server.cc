#include "server/http/http_server.h"

#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "boost/asio/dispatch.hpp"
#include "boost/asio/executor_work_guard.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/steady_timer.hpp"
#include "server/http/session.h"
#include "server/http/tls_context.h"
#include "spdlog/spdlog.h"

namespace shoal {
namespace {

namespace net = boost::asio;
using boost::system::error_code;
using net::ip::tcp;

constexpr int kReserve = 16;                // connections for open routes
constexpr int kSendBufferBytes = 64 << 10;  // the kernel doubles it
constexpr auto kAcceptRetry = std::chrono::milliseconds(100);

// Half of the descriptors the process may have, or the wish if smaller: model
// files, gRPC and logs need some too.
int ConnectionCap(int wish) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 ||
      limit.rlim_cur == RLIM_INFINITY) {
    return wish;
  }
  const int half =
      static_cast<int>(std::min<rlim_t>(limit.rlim_cur / 2, 1 << 30));
  return std::max(4, std::min(wish, half - kReserve));
}

absl::StatusOr<tcp::endpoint> Resolve(net::io_context& io,
                                      const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 ||
      port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("HTTP address \"", address, "\" is not host:port"));
  }
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  error_code ec;
  tcp::resolver resolver(io);
  const auto results = resolver.resolve(
      host, absl::StrCat(port),
      tcp::resolver::passive | tcp::resolver::numeric_service, ec);
  if (ec || results.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "HTTP address \"", address, "\" does not resolve: ", ec.message()));
  }
  return results.begin()->endpoint();
}

// A dead peer is found within 40 s; small writes go out at once; what a slow
// reader leaves in the kernel is bounded.
void TuneSocket(Socket& socket) {
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  socket.set_option(net::socket_base::keep_alive(true), ignored);
  socket.set_option(net::socket_base::send_buffer_size(kSendBufferBytes),
                    ignored);
  const int fd = socket.native_handle();
  const int idle_seconds = 20, interval_seconds = 5, probes = 4;
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_seconds, sizeof(int));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_seconds, sizeof(int));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(int));
}

class AsioHttpServer final : public HttpServer {
 public:
  AsioHttpServer(const HttpServerOptions& options, Router router,
                 const ApiKeys& keys)
      : options_(options),
        router_(std::move(router)),
        io_(std::max(1, options.io_threads)),
        work_(net::make_work_guard(io_)),
        workers_(std::max(1, options.worker_threads)),
        context_{options_, router_, keys, workers_, {}, {}},
        acceptor_(net::make_strand(io_)),
        retry_(acceptor_.get_executor()) {}

  ~AsioHttpServer() override { Shutdown(); }

  absl::Status Listen() {
    if (!options_.tls.certificate.empty()) {
      auto tls = MakeTlsContext(options_.tls);
      if (!tls.ok()) return tls.status();
      tls_ = *std::move(tls);
    }
    const auto endpoint = Resolve(io_, options_.address);
    if (!endpoint.ok()) return endpoint.status();
    error_code ec;
    acceptor_.open(endpoint->protocol(), ec);
    if (!ec) acceptor_.set_option(net::socket_base::reuse_address(true), ec);
    if (!ec) acceptor_.bind(*endpoint, ec);
    if (!ec) acceptor_.listen(net::socket_base::max_listen_connections, ec);
    if (ec) {
      return absl::UnavailableError(absl::StrCat(
          "HTTP port ", options_.address, " cannot be bound: ", ec.message()));
    }
    const tcp::endpoint bound = acceptor_.local_endpoint(ec);
    const std::string host = bound.address().to_string();
    address_ = bound.address().is_v6()
                   ? absl::StrCat("[", host, "]:", bound.port())
                   : absl::StrCat(host, ":", bound.port());
    max_connections_ = ConnectionCap(options_.max_connections);
    net::dispatch(acceptor_.get_executor(), [this] { Accept(); });
    for (int i = 0; i < std::max(1, options_.io_threads); ++i) {
      threads_.emplace_back([this] { io_.run(); });
    }
    return absl::OkStatus();
  }

  std::string address() const override { return address_; }
  std::string url() const override {
    return absl::StrCat(tls_ ? "https://" : "http://", address_);
  }
  int num_connections() const override { return context_.registry.size(); }

  void StopAccepting() override {
    if (context_.stopping.exchange(true)) return;
    net::post(acceptor_.get_executor(), [this] {
      error_code ignored;
      retry_.cancel();
      acceptor_.close(ignored);
    });
    context_.registry.CloseIdle();
  }

  void Shutdown() override {
    if (threads_.empty()) return;
    StopAccepting();
    context_.registry.CloseAll();
    // Handlers still running post their replies to closed sessions, where they
    // are dropped; then nothing is left for the I/O threads to do.
    workers_.join();
    context_.registry.CloseAll();
    work_.reset();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  void Accept() {
    acceptor_.async_accept(
        net::make_strand(io_), [this](error_code ec, Socket socket) {
          if (ec == net::error::operation_aborted || context_.stopping) return;
          if (ec) return RetryAccept(ec);
          Admit(std::move(socket));
          Accept();
        });
  }

  void RetryAccept(error_code ec) {
    // Out of descriptors: the backlog waits until some connection closes.
    spdlog::warn("http cannot accept a connection: {}", ec.message());
    retry_.expires_after(kAcceptRetry);
    retry_.async_wait([this](error_code cancelled) {
      if (!cancelled && !context_.stopping) Accept();
    });
  }

  void Admit(Socket socket) {
    const int open = context_.registry.size();
    if (open >= max_connections_ + kReserve) return;  // closes it
    TuneSocket(socket);
    MakeSession(std::move(socket), context_, open >= max_connections_,
                tls_.get())
        ->Start();
  }

  const HttpServerOptions options_;
  const Router router_;
  std::unique_ptr<net::ssl::context> tls_;
  net::io_context io_;
  net::executor_work_guard<net::io_context::executor_type> work_;
  net::thread_pool workers_;
  SessionContext context_;
  net::basic_socket_acceptor<tcp, Strand> acceptor_;
  net::basic_waitable_timer<std::chrono::steady_clock,
                            net::wait_traits<std::chrono::steady_clock>, Strand>
      retry_;
  std::vector<std::thread> threads_;
  std::string address_;
  int max_connections_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    const HttpServerOptions& options, Router router, const ApiKeys& keys) {
  auto server =
      std::make_unique<AsioHttpServer>(options, std::move(router), keys);
  if (absl::Status status = server->Listen(); !status.ok()) return status;
  return server;
}

}  // namespace shoal
