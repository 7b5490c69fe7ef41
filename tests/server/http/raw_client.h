// A socket to a server under test: sends bytes as given and reads what comes.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace shoal {

class RawClient {
 public:
  // `address`: "127.0.0.1:PORT".
  explicit RawClient(const std::string& address) {
    fd_ = socket(AF_INET, SOCK_STREAM, 0);
    // A test that hangs says where.
    const timeval limit = {.tv_sec = 10, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(std::atoi(address.c_str() + address.rfind(':') + 1));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ =
        connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0;
  }
  ~RawClient() { close(fd_); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool connected() const { return connected_; }

  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(n);
    }
    return true;
  }
  void FinishSending() { shutdown(fd_, SHUT_WR); }

  // Everything until the server closes.
  std::string ReadAll() {
    while (Receive()) {
    }
    return std::move(received_);
  }
  // Until `end` has come, or the server closed.
  std::string ReadUntil(std::string_view end) {
    size_t at;
    while ((at = received_.find(end)) == std::string::npos) {
      if (!Receive()) return std::move(received_);
    }
    std::string text = received_.substr(0, at + end.size());
    received_.erase(0, at + end.size());
    return text;
  }
  // One response with a Content-Length.
  std::string ReadResponse() {
    std::string head = ReadUntil("\r\n\r\n");
    const size_t at = head.find("Content-Length: ");
    if (at == std::string::npos) return head;
    const size_t size = std::strtoull(head.c_str() + at + 16, nullptr, 10);
    while (received_.size() < size && Receive()) {
    }
    head += received_.substr(0, size);
    received_.erase(0, std::min(size, received_.size()));
    return head;
  }

 private:
  bool Receive() {
    char buffer[4096];
    const ssize_t n = recv(fd_, buffer, sizeof(buffer), 0);
    if (n <= 0) return false;
    received_.append(buffer, n);
    return true;
  }

  int fd_ = -1;
  bool connected_ = false;
  std::string received_;
};

inline std::string Post(std::string_view path, std::string_view body,
                        std::string_view headers = "") {
  return absl::StrCat("POST ", std::string(path),
                      " HTTP/1.1\r\nHost: h\r\nX-Request-Id: rid\r\n"
                      "Content-Type: application/json\r\n",
                      std::string(headers), "Content-Length: ", body.size(),
                      "\r\n\r\n", std::string(body));
}

inline std::string Get(std::string_view path, std::string_view headers = "") {
  return absl::StrCat("GET ", std::string(path), " HTTP/1.1\r\nHost: h\r\n",
                      std::string(headers), "\r\n");
}

// The body of a response; chunks joined where it is chunked.
inline std::string BodyOf(const std::string& response) {
  const size_t at = response.find("\r\n\r\n");
  if (at == std::string::npos) return "";
  std::string_view rest = std::string_view(response).substr(at + 4);
  if (response.substr(0, at).find("chunked") == std::string::npos) {
    return std::string(rest);
  }
  std::string body;
  while (true) {
    const size_t line = rest.find("\r\n");
    if (line == std::string_view::npos) return body + "<cut>";
    const size_t size =
        std::strtoull(std::string(rest.substr(0, line)).c_str(), nullptr, 16);
    rest.remove_prefix(line + 2);
    if (size == 0) return body;
    body += rest.substr(0, size);
    rest.remove_prefix(std::min(rest.size(), size + 2));
  }
}

inline int StatusOf(const std::string& response) {
  return response.size() > 12 ? std::atoi(response.c_str() + 9) : 0;
}

}  // namespace shoal
