// A session is one accepted connection: it reads requests, asks the router,
// writes replies and watches for the peer leaving. One thread at a time runs it
// (its socket's strand). It lives as long as something is under way on it.
//
//   (handshake)? (idle -> head -> body -> handler -> write)* (linger)? close
#pragma once

#include <atomic>
#include <memory>
#include <unordered_map>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/ssl/context.hpp"
#include "boost/asio/strand.hpp"
#include "boost/asio/thread_pool.hpp"
#include "server/auth.h"
#include "server/http/http_server.h"
#include "server/http/router.h"

namespace shoal {

class Session {
 public:
  virtual ~Session() = default;
  virtual void Start() = 0;
  // Both from any thread.
  virtual void Close() = 0;
  virtual void CloseIfIdle() = 0;
};

// Knows the open sessions, so that a stopping server can reach them. Thread
// safe.
class SessionRegistry {
 public:
  void Add(const std::shared_ptr<Session>& session);
  void Remove(Session* session);
  int size() const;
  void CloseAll();
  void CloseIdle();

 private:
  std::vector<std::shared_ptr<Session>> Alive() const;

  mutable absl::Mutex mutex_;
  std::unordered_map<Session*, std::weak_ptr<Session>> sessions_
      ABSL_GUARDED_BY(mutex_);
};

// What all sessions of a server share; outlives them.
struct SessionContext {
  const HttpServerOptions& options;
  const Router& router;
  const ApiKeys& keys;
  boost::asio::thread_pool& workers;
  SessionRegistry registry;
  std::atomic<bool> stopping = false;
};

using Strand = boost::asio::strand<boost::asio::io_context::executor_type>;
using Socket = boost::asio::basic_stream_socket<boost::asio::ip::tcp, Strand>;

// `open_only`: the connection is one of the reserve and gets open routes only.
// `tls` may be nullptr, else must outlive the session.
std::shared_ptr<Session> MakeSession(Socket socket, SessionContext& context,
                                     bool open_only,
                                     boost::asio::ssl::context* tls);

}  // namespace shoal
