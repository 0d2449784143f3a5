// A client for tests: a socket, bytes out, bytes in.
#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "core/text.h"
#include "formats/posix_file.h"

namespace linnet::server {

class TestClient {
 public:
  explicit TestClient(int port, int receive_buffer = 0) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (receive_buffer) setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
      throw std::runtime_error("no connection");
  }

  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  // Reads until the text has come, or the end. A minute of silence fails the test.
  std::string read_until(std::string_view text) {
    while (received_.find(text) == std::string::npos && receive()) {}
    const size_t at = received_.find(text);
    return take(at == std::string::npos ? received_.size() : at + text.size());
  }
  std::string read_all() {
    while (receive()) {}
    return take(received_.size());
  }
  // One answer with a Content-Length.
  std::string read_answer() {
    std::string head = read_until("\r\n\r\n");
    const size_t at = head.find("Content-Length: ");
    if (at == std::string::npos) return head;
    const size_t length = std::stoul(head.substr(at + 16));
    while (received_.size() < length && receive()) {}
    return head + take(std::min(length, received_.size()));
  }
  bool receive() {
    pollfd wait{fd_.get(), POLLIN, 0};
    if (poll(&wait, 1, 60'000) <= 0) {
      ADD_FAILURE() << "the server is silent";
      return false;
    }
    char buffer[65536];
    const ssize_t n = recv(fd_.get(), buffer, sizeof buffer, 0);
    if (n > 0) received_.append(buffer, static_cast<size_t>(n));
    return n > 0;
  }
  bool has_answer() const {
    pollfd now{fd_.get(), POLLIN, 0};
    return poll(&now, 1, 0) == 1;
  }
  void hang_up() { fd_ = formats::FileDescriptor(); }
  void half_close() { shutdown(fd_.get(), SHUT_WR); }

 private:
  std::string take(size_t n) {
    std::string result = received_.substr(0, n);
    received_.erase(0, n);
    return result;
  }
  formats::FileDescriptor fd_;
  std::string received_;
};

inline std::string post_text(std::string_view path, std::string_view body, std::string_view more = "") {
  return cat("POST ", path, " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n", more,
             "Content-Length: ", body.size(), "\r\n\r\n", body);
}
inline std::string get_text(std::string_view path, std::string_view more = "") {
  return cat("GET ", path, " HTTP/1.1\r\nHost: localhost\r\n", more, "\r\n");
}
inline int status_of(std::string_view answer) {
  return answer.starts_with("HTTP/1.1 ") ? std::stoi(std::string(answer.substr(9, 3))) : 0;
}
inline std::string body_of(std::string_view answer) {
  const size_t at = answer.find("\r\n\r\n");
  return at == std::string_view::npos ? "" : std::string(answer.substr(at + 4));
}

}  // namespace linnet::server
