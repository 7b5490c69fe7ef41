// The text of an HTTP/1.1 response's head, and the frame of a body's chunk.
#pragma once

#include <string>
#include <string_view>

#include "server/http/http_message.h"

namespace shoal {

// How the body's end is told to the peer.
enum class BodyFraming {
  kLength,   // Content-Length: the whole body follows
  kChunked,  // Transfer-Encoding: chunked
  kClose,    // the connection's end (HTTP/1.0)
};

// Status line and headers with the empty line; adds those that every response
// carries (nosniff, no-store unless the handler set Cache-Control, the request
// id). REQUIRES: header values hold no line break.
std::string ResponseHead(const HttpResponse& response, BodyFraming framing,
                         bool keep_alive, std::string_view request_id);

// "1a\r\n", to be followed by that many bytes and "\r\n".
std::string ChunkHead(size_t size);

}  // namespace shoal
