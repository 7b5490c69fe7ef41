#include "server/http/session.h"

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "boost/asio/bind_executor.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/ssl/stream.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/write.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/http/parser.hpp"
#include "boost/beast/http/read.hpp"
#include "boost/beast/http/string_body.hpp"
#include "server/errors.h"
#include "server/http/admission.h"
#include "server/http/api_error.h"
#include "server/http/response_head.h"
#include "spdlog/spdlog.h"

namespace shoal {
namespace {

namespace net = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr uint32_t kMaxHeadBytes = 16 << 10;
constexpr size_t kBufferBytes = 128 << 10;    // head, or a piece of a body
constexpr int kMaxChunks = 65536;             // of one request body
constexpr size_t kWatchBytes = 4 << 10;       // read at once while replying
constexpr size_t kMaxLingerBytes = 64 << 20;  // of a refused body
constexpr auto kHandshakeTime = std::chrono::seconds(10);
constexpr auto kLingerTime = std::chrono::seconds(5);
constexpr auto kReserveTime = std::chrono::seconds(5);

std::chrono::milliseconds ToChrono(absl::Duration duration) {
  return absl::ToChronoMilliseconds(duration);
}

RequestHead ReadHeadFields(const http::request<http::string_body>& message) {
  const auto value = [&](auto name) {
    const auto it = message.find(name);
    return it == message.end() ? std::string() : std::string(it->value());
  };
  RequestHead head;
  head.method = std::string(message.method_string());
  head.target = std::string(message.target());
  head.http_1_1 = message.version() >= 11;
  head.num_hosts = static_cast<int>(message.count(http::field::host));
  head.content_type = value(http::field::content_type);
  head.content_encoding = value(http::field::content_encoding);
  head.authorization = value(http::field::authorization);
  head.expect = value(http::field::expect);
  head.if_none_match = value(http::field::if_none_match);
  head.origin = value(http::field::origin);
  head.request_method = value(http::field::access_control_request_method);
  head.request_id = value("X-Request-Id");
  return head;
}

template <typename Stream>
class SessionOn final : public Session,
                        public std::enable_shared_from_this<SessionOn<Stream>> {
 public:
  template <typename... Args>
  SessionOn(SessionContext& context, bool open_only, Args&&... args)
      : context_(context),
        open_only_(open_only),
        stream_(std::forward<Args>(args)...),
        timer_(stream_.get_executor()),
        buffer_(kBufferBytes) {}

  ~SessionOn() override { context_.registry.Remove(this); }

  void Start() override {
    net::post(stream_.get_executor(),
              [self = this->shared_from_this()] { self->Handshake(); });
  }

  void Close() override {
    net::post(stream_.get_executor(),
              [self = this->shared_from_this()] { self->CloseNow(); });
  }

  void CloseIfIdle() override {
    net::post(stream_.get_executor(), [self = this->shared_from_this()] {
      if (self->phase_ == Phase::kIdle) self->CloseNow();
    });
  }

 private:
  enum class Phase { kIdle, kReading, kReplying, kLingering, kClosed };
  static constexpr bool kTls = !std::is_same_v<Stream, Socket>;

  Socket& socket() {
    if constexpr (kTls) {
      return stream_.next_layer();
    } else {
      return stream_;
    }
  }

  // Deadlines. One at a time; moving it costs nothing, because the timer only
  // looks at it when it last said so.
  void SetDeadline(Clock::duration from_now) {
    deadline_ = Clock::now() + from_now;
    if (timer_expiry_ > deadline_) CheckDeadline();
  }
  void ClearDeadline() { deadline_ = Clock::time_point::max(); }
  void CheckDeadline() {
    timer_expiry_ = deadline_;
    if (phase_ == Phase::kClosed || deadline_ == Clock::time_point::max()) {
      return;
    }
    if (Clock::now() >= deadline_) return OnDeadline();
    timer_.expires_at(deadline_);
    timer_.async_wait([weak = this->weak_from_this()](error_code ec) {
      if (ec) return;  // re-armed or closed
      if (auto self = weak.lock()) self->CheckDeadline();
    });
  }
  void OnDeadline() {
    if (phase_ == Phase::kReading && parser_ && !kTls) {
      // Best effort: the peer may still be reading.
      const std::string text =
          "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n"
          "Connection: close\r\n\r\n";
      error_code ignored;
      socket().non_blocking(true, ignored);
      socket().send(net::buffer(text), 0, ignored);
    }
    if (phase_ == Phase::kReplying) {
      spdlog::warn("http request_id={} the client stopped reading",
                   request_.request_id);
    }
    CloseNow();
  }

  void CloseNow() {
    if (phase_ == Phase::kClosed) return;
    phase_ = Phase::kClosed;
    reply_stream_.reset();
    timer_.cancel();
    error_code ignored;
    socket().shutdown(net::socket_base::shutdown_both, ignored);
    socket().close(ignored);
  }

  void Handshake() {
    if constexpr (kTls) {
      phase_ = Phase::kReading;
      SetDeadline(kHandshakeTime);
      stream_.async_handshake(net::ssl::stream_base::server,
                              [self = this->shared_from_this()](error_code ec) {
                                if (ec) return self->CloseNow();
                                self->AwaitRequest();
                              });
    } else {
      AwaitRequest();
    }
  }

  // Waits for the first byte of the next request.
  void AwaitRequest() {
    if (phase_ == Phase::kClosed) return;
    parser_.reset();
    if (buffer_.size() > 0) return ReadHead();  // pipelined: no watch is on
    if (context_.stopping && num_served_ > 0) return CloseNow();
    phase_ = Phase::kIdle;
    SetDeadline(open_only_ ? kReserveTime
                           : ToChrono(context_.options.idle_timeout));
    if (!watching_) Watch();
  }

  // One read while nothing else reads: sees the peer's leaving, the next
  // request, or (lingering) what is left of a refused one.
  void Watch() {
    watching_ = true;
    stream_.async_read_some(
        buffer_.prepare(kWatchBytes),
        [self = this->shared_from_this()](error_code ec, size_t size) {
          self->OnWatch(ec, size);
        });
  }
  void OnWatch(error_code ec, size_t size) {
    watching_ = false;
    if (phase_ == Phase::kClosed) return;
    if (ec) {
      if (phase_ == Phase::kReplying) {
        spdlog::debug("http request_id={} the client went away",
                      request_.request_id);
      }
      return CloseNow();
    }
    if (phase_ == Phase::kLingering) {
      num_dropped_ += size;
      return num_dropped_ > kMaxLingerBytes ? CloseNow() : Watch();
    }
    // While replying, a client that sends on is pipelining: its bytes wait, and
    // no more are read until their turn.
    buffer_.commit(size);
    if (phase_ == Phase::kIdle) ReadHead();
  }

  void ReadHead() {
    phase_ = Phase::kReading;
    SetDeadline(open_only_ ? kReserveTime
                           : ToChrono(context_.options.request_timeout));
    parser_.emplace();
    parser_->header_limit(kMaxHeadBytes);
    parser_->body_limit(context_.options.max_body_bytes);
    num_chunks_ = 0;
    on_chunk_ = [this](uint64_t, boost::beast::string_view, error_code& ec) {
      if (++num_chunks_ > kMaxChunks) ec = http::error::body_limit;
    };
    parser_->on_chunk_header(on_chunk_);
    http::async_read_header(stream_, buffer_, *parser_,
                            [self = this->shared_from_this()](
                                error_code ec, size_t) { self->OnHead(ec); });
  }

  void OnHead(error_code ec) {
    if (phase_ == Phase::kClosed) return;
    started_ = Clock::now();
    request_ = HttpRequest();
    route_ = nullptr;
    cors_headers_.clear();
    head_only_ = false;
    http_1_1_ = parser_->get().version() >= 11;
    keep_alive_ = false;
    if (ec) return OnReadError(ec);
    head_only_ = parser_->get().method() == http::verb::head;
    Admission admission = Admit(ReadHeadFields(parser_->get()), context_.router,
                                context_.keys, context_.options, open_only_);
    request_ = std::move(admission.request);
    cors_headers_ = std::move(admission.cors_headers);
    const bool keep_alive = parser_->keep_alive() && !open_only_;
    // An unread body would be taken for the next request.
    const bool no_body = parser_->is_done();
    if (admission.answer) {
      keep_alive_ = keep_alive && no_body;
      phase_ = Phase::kReplying;
      return SendWhole(std::move(*admission.answer));
    }
    route_ = admission.route;
    keep_alive_ = keep_alive;
    if (parser_->is_done()) return OnBody({});
    if (absl::EqualsIgnoreCase(std::string(parser_->get()[http::field::expect]),
                               "100-continue") &&
        http_1_1_) {
      return SendContinue();
    }
    ReadBody();
  }

  void SendContinue() {
    out_ = "HTTP/1.1 100 Continue\r\n\r\n";
    net::async_write(stream_, net::buffer(out_),
                     [self = this->shared_from_this()](error_code ec, size_t) {
                       if (ec) return self->CloseNow();
                       self->ReadBody();
                     });
  }

  void ReadBody() {
    http::async_read(stream_, buffer_, *parser_,
                     [self = this->shared_from_this()](error_code ec, size_t) {
                       if (self->phase_ != Phase::kClosed) self->OnBody(ec);
                     });
  }

  void OnReadError(error_code ec) {
    keep_alive_ = false;
    const auto refuse = [&](absl::string_view message, std::string_view code,
                            int status) {
      if (request_.request_id.empty()) {
        request_.request_id = RequestIdOrNew("");
      }
      phase_ = Phase::kReplying;
      SendWhole(ApiError(
          WithDetail(absl::InvalidArgumentError(message), "", code), status));
    };
    if (ec == http::error::body_limit) {
      if (num_chunks_ > kMaxChunks) {
        return refuse("The body has too many chunks", "too_many_chunks", 400);
      }
      return refuse(absl::StrCat("The body is larger than ",
                                 context_.options.max_body_bytes, " bytes"),
                    "body_too_large", 413);
    }
    if (ec == http::error::header_limit || ec == http::error::buffer_overflow) {
      return refuse("The request's header fields are too large",
                    "headers_too_large", 431);
    }
    if (ec.category() == make_error_code(http::error::bad_method).category() &&
        ec != http::error::end_of_stream &&
        ec != http::error::partial_message) {
      return refuse("Malformed HTTP request", "malformed_request", 400);
    }
    CloseNow();
  }

  void OnBody(error_code ec) {
    if (ec) return OnReadError(ec);
    phase_ = Phase::kReplying;
    ClearDeadline();
    HttpRequest request = request_;
    request.body = std::move(parser_->get().body());
    if (route_->run_on == RunOn::kIo) {
      return OnReply(RunHandler(*route_, request));
    }
    if (buffer_.size() == 0) Watch();
    net::post(context_.workers, [self = this->shared_from_this(),
                                 request = std::move(request),
                                 route = route_]() mutable {
      auto reply = std::make_shared<Reply>(RunHandler(*route, request));
      auto executor = self->stream_.get_executor();
      net::post(executor, [self = std::move(self), reply] {
        self->OnReply(std::move(*reply));
      });
    });
  }

  void OnReply(Reply reply) {
    if (phase_ == Phase::kClosed) return;  // dropping the reply cancels it
    if (!reply.stream) return SendWhole(std::move(reply.response));
    reply_stream_ = std::move(reply.stream);
    // The notification comes on any thread and may outlive the session.
    reply_stream_->SetNotify(
        [weak = this->weak_from_this(), executor = stream_.get_executor()] {
          net::post(executor, [weak] {
            if (auto self = weak.lock()) self->Pump();
          });
        });
    Pump();
  }

  // Takes the next piece, if one is ready and the former has been written.
  void Pump() {
    if (writing_ || !reply_stream_ || phase_ != Phase::kReplying) return;
    std::optional<ReplyStream::Piece> piece = reply_stream_->TryNext();
    if (!piece) return;
    if (piece->head && piece->last) {
      reply_stream_.reset();
      return SendWhole(std::move(*piece->head));
    }
    out_.clear();
    if (piece->head) {
      keep_alive_ = keep_alive_ && http_1_1_ && !context_.stopping;
      status_ = piece->head->status;
      AddCors(*piece->head);
      out_ = ResponseHead(
          *piece->head, http_1_1_ ? BodyFraming::kChunked : BodyFraming::kClose,
          keep_alive_, request_.request_id);
    }
    if (!http_1_1_) {
      out_ += piece->data;
    } else {
      if (!piece->data.empty()) {
        out_ += ChunkHead(piece->data.size());
        out_ += piece->data;
        out_ += "\r\n";
      }
      if (piece->last) out_ += "0\r\n\r\n";
    }
    if (piece->last) reply_stream_.reset();
    Write(piece->last);
  }

  void SendWhole(HttpResponse response) {
    keep_alive_ = keep_alive_ && !context_.stopping;
    status_ = response.status;
    AddCors(response);
    out_ = ResponseHead(response, BodyFraming::kLength, keep_alive_,
                        request_.request_id);
    if (!head_only_) out_ += response.body;
    Write(/*last=*/true);
  }

  void AddCors(HttpResponse& response) {
    for (auto& header : cors_headers_) {
      response.headers.push_back(header);
    }
  }

  void Write(bool last) {
    writing_ = true;
    SetDeadline(ToChrono(context_.options.write_timeout));
    net::async_write(
        stream_, net::buffer(out_),
        [self = this->shared_from_this(), last](error_code ec, size_t) {
          self->writing_ = false;
          if (self->phase_ == Phase::kClosed) return;
          if (ec) return self->CloseNow();
          self->ClearDeadline();
          if (last) return self->OnReplied();
          self->Pump();
        });
  }

  void OnReplied() {
    ++num_served_;
    LogRequest();
    if (out_.capacity() > kBufferBytes) std::string().swap(out_);
    if (keep_alive_ && !context_.stopping) return AwaitRequest();
    Linger();
  }

  void LogRequest() const {
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(
        Clock::now() - started_);
    const auto level = status_ >= 500 ? spdlog::level::warn
                       : route_ && route_->method == "GET"
                           ? spdlog::level::debug
                           : spdlog::level::info;
    spdlog::log(level, "http {} {} status={} ms={} request_id={}",
                PrintableText(request_.method, 16),
                PrintableText(request_.path, 80), status_, ms.count(),
                request_.request_id);
  }

  // Closes so that the peer can still read the response: says goodbye, then
  // reads and drops what it was sending until it closes too. Under TLS only the
  // peer closes: a bare shutdown would look like an attack to it.
  void Linger() {
    phase_ = Phase::kLingering;
    SetDeadline(kLingerTime);
    error_code ignored;
    if (!kTls) socket().shutdown(net::socket_base::shutdown_send, ignored);
    if (watching_) return;
    buffer_.consume(buffer_.size());
    Watch();
  }

  SessionContext& context_;
  const bool open_only_;
  Stream stream_;
  net::steady_timer timer_;
  boost::beast::flat_buffer buffer_;
  Phase phase_ = Phase::kIdle;
  Clock::time_point deadline_ = Clock::time_point::max();
  Clock::time_point timer_expiry_ = Clock::time_point::max();

  // Of the request being read or answered.
  std::optional<http::request_parser<http::string_body>> parser_;
  std::function<void(uint64_t, boost::beast::string_view, error_code&)>
      on_chunk_;
  int num_chunks_ = 0;
  HttpRequest request_;
  const Route* route_ = nullptr;
  std::vector<std::pair<std::string, std::string>> cors_headers_;
  bool http_1_1_ = true;
  bool keep_alive_ = false;
  bool head_only_ = false;
  Clock::time_point started_;

  // Of its answer.
  std::unique_ptr<ReplyStream> reply_stream_;
  std::string out_;  // being written
  int status_ = 0;
  bool writing_ = false;
  bool watching_ = false;

  int64_t num_served_ = 0;
  size_t num_dropped_ = 0;
};

}  // namespace

std::shared_ptr<Session> MakeSession(Socket socket, SessionContext& context,
                                     bool open_only, net::ssl::context* tls) {
  std::shared_ptr<Session> session;
  if (tls != nullptr) {
    session = std::make_shared<SessionOn<net::ssl::stream<Socket>>>(
        context, open_only, std::move(socket), *tls);
  } else {
    session = std::make_shared<SessionOn<Socket>>(context, open_only,
                                                  std::move(socket));
  }
  context.registry.Add(session);
  return session;
}

}  // namespace shoal
