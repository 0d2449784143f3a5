// A server on a free port that answers as a test says.
#pragma once

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace linnet::cli {

class FakeServer {
 public:
  // The peer of one request: what it sends, and whether the connection ends then.
  struct Peer {
    int fd;
    bool close = false;
    void send(std::string_view bytes) const {
      while (!bytes.empty()) {
        const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (n <= 0) return;
        bytes.remove_prefix(static_cast<size_t>(n));
      }
    }
    // A whole answer with a length.
    void answer(int status, std::string_view body) const {
      send("HTTP/1.1 " + std::to_string(status) + " X\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n");
      send(body);
    }
    void chunk(std::string_view data) const {
      char size[32];
      std::snprintf(size, sizeof size, "%zx\r\n", data.size());
      send(size + std::string(data) + "\r\n");
    }
  };
  using Handler = std::function<void(Peer&, const std::string& path, const std::string& body)>;

  explicit FakeServer(Handler handler) : handler_(std::move(handler)), listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof address;
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), bytes) != 0 || listen(listener_, 128) != 0 ||
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &bytes) != 0)
      throw std::runtime_error("no port");
    url = "http://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    acceptor_ = std::thread([this] { accept_all(); });
  }

  ~FakeServer() {
    shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    {
      const std::lock_guard lock(mutex_);
      for (const int fd : open_) shutdown(fd, SHUT_RDWR);
    }
    for (std::thread& t : connections_) t.join();
    ::close(listener_);
  }

  std::string url;

 private:
  void accept_all() {
    for (int fd; (fd = accept(listener_, nullptr, nullptr)) >= 0;) {
      const int one = 1;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      const std::lock_guard lock(mutex_);
      open_.push_back(fd);
      connections_.emplace_back([this, fd] { serve(fd); });
    }
  }

  void serve(int fd) {
    std::string got;
    for (Peer peer{fd}; !peer.close;) {
      const auto end = [&] { return got.find("\r\n\r\n"); };
      const auto more = [&] {
        char buffer[8192];
        const ssize_t n = recv(fd, buffer, sizeof buffer, 0);
        if (n > 0) got.append(buffer, static_cast<size_t>(n));
        return n > 0;
      };
      bool alive = true;
      while (end() == std::string::npos && (alive = more())) {}
      if (!alive) break;
      const size_t head = end() + 4, length_at = got.find("Content-Length: ");
      const size_t length = length_at < head ? std::stoul(got.substr(length_at + 16)) : 0;
      while (got.size() < head + length && (alive = more())) {}
      if (!alive) break;
      const size_t path = got.find(' ') + 1;
      handler_(peer, got.substr(path, got.find(' ', path) - path), got.substr(head, length));
      got.erase(0, head + length);
    }
    const std::lock_guard lock(mutex_);
    std::erase(open_, fd);
    ::close(fd);
  }

  Handler handler_;
  int listener_;
  std::mutex mutex_;
  std::vector<int> open_;
  std::vector<std::thread> connections_;
  std::thread acceptor_;
};

}  // namespace linnet::cli
