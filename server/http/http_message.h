// What the HTTP edge's two halves say to each other: sockets (session.h) turn
// bytes into HttpRequest, handlers answer with Reply. Handlers see no socket
// and sessions no JSON. Plain data; a ReplyStream belongs to one session.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shoal {

struct HttpRequest {
  std::string method;        // upper case
  std::string path;          // percent-decoded, without query, valid UTF-8
  std::string path_tail;     // what a "/*" route matched, else empty
  std::string query;         // as sent
  std::string body;          // whole, within the limit
  std::string content_type;  // as sent
  std::string accept_match;  // If-None-Match, as sent
  std::string request_id;    // the client's X-Request-Id, or made up
  std::string tenant;        // of the API key
};

struct HttpResponse {
  int status = 200;
  std::string content_type;  // empty: no body is meant
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

// An answer that takes its time. Calls come from one thread at a time.
// Destroying it gives up the request: what still runs is cancelled.
class ReplyStream {
 public:
  // The first piece carries the head. If it is the last one too, its body goes
  // out with a length; else `data` of this and later pieces is streamed.
  struct Piece {
    std::optional<HttpResponse> head;
    std::string data;
    bool last = false;
  };
  virtual ~ReplyStream() = default;
  // The next piece, or nothing if none is ready now. Never blocks. Called again
  // only when the former piece has been written (this is the back-pressure) and
  // never after the last one.
  virtual std::optional<Piece> TryNext() = 0;
  // As TokenStream::SetNotify: `notify` runs on any thread and only schedules.
  virtual void SetNotify(std::function<void()> notify) = 0;
};

// A finished response, or a stream that will bring one (then `response` is
// ignored).
struct Reply {
  HttpResponse response;
  std::unique_ptr<ReplyStream> stream;

  Reply() = default;
  Reply(HttpResponse r) : response(std::move(r)) {}
  Reply(std::unique_ptr<ReplyStream> s) : stream(std::move(s)) {}
};

// Undoes %XX of a path. Nothing if an escape is broken, or the result holds a
// NUL, a control character, a ".." segment or invalid UTF-8.
std::optional<std::string> DecodePath(std::string_view path);

// `id` if it may be echoed in a header (1..128 of [A-Za-z0-9._:-]), else a new
// random one of 32 hex digits.
std::string RequestIdOrNew(std::string_view id);

// Whether `text` is well-formed UTF-8 (no overlong forms, no surrogates).
bool IsUtf8(std::string_view text);

// Whether a Content-Type value names application/json, whatever its
// parameters, or a charset other than UTF-8 makes it something else.
bool IsJsonContentType(std::string_view content_type);

}  // namespace shoal
