// HttpServer: connections. One thread runs them all (epoll), so that ten thousand that are idle, slow or hostile cost little memory
// and no thread; a request is handed on when it has arrived whole, an answer may come from any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "formats/posix_file.h"
#include "server/http_connection.h"
#include "server/http_parser.h"

namespace linnet::server {

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8080;  // 0: one that is free
  HttpLimits limits;
  size_t max_connections = 4096;                    // beyond: 503 at once, and closed
  size_t max_buffered_bytes = size_t{256} << 20;    // of requests that are not yet read, all together; beyond: 503
  std::chrono::milliseconds head_timeout{15'000};   // from a request's first byte to the end of its headers
  std::chrono::milliseconds idle_timeout{60'000};   // between requests
  std::chrono::milliseconds stall_timeout{30'000};  // in which kMinWindowBytes of a body or an answer must move
  std::chrono::milliseconds linger_timeout{5'000};  // for the rest of a request that was refused before its end
};

class HttpServer {
 public:
  // Called on the server's thread for each request: answers at once, or passes the exchange on to a thread of its own.
  using Handler = std::function<void(std::shared_ptr<Exchange>)>;
  // The answer to bytes that are no request, or one that is refused before it is whole.
  using Refusal = std::function<HttpResponse(int status, const std::string& reason)>;

  static constexpr size_t kMinWindowBytes = 16 << 10;
  static constexpr size_t kSmallRequest = 64 << 10;  // is never refused for the memory that others take

  // Binds and listens: clients may connect from now on. Throws InvalidArgument for a host that is no address of this machine,
  // IoError with the system's reason ("Address already in use").
  HttpServer(HttpOptions options, Handler handler, Refusal refusal);
  ~HttpServer();

  int port() const { return port_; }
  void run();  // until finish() has come to its end; on one thread

  // From any thread. close_listener: no new connections, idle ones are closed, the others after their answer. finish: that, and run()
  // returns when none is being answered, at the latest at `until`.
  void close_listener();
  void finish(std::chrono::steady_clock::time_point until);

  size_t n_connections() const { return n_connections_; }

 private:
  using Clock = std::chrono::steady_clock;
  using ConnectionPtr = std::shared_ptr<Connection>;

  void listen_on(const std::string& host, int port);
  void accept_all();
  void add(int fd, std::string client, bool refused);
  template <class Body>
  void guarded(uint64_t id, Body body);
  void on_event(uint64_t id, uint32_t events);
  bool receive(Connection& c);
  void advance(const ConnectionPtr& c);
  void dispatch(const ConnectionPtr& c);
  void refuse(Connection& c, int status, const std::string& reason);
  bool flush(Connection& c);
  void end_answer(Connection& c);
  void linger(Connection& c);
  void watch(Connection& c, uint32_t events);
  void close(Connection& c);
  void sweep();
  void sweep(Connection& c, Clock::time_point now);
  void close_idle();
  bool any_answering() const;
  void start_window(Connection& c) const;

  HttpOptions options_;
  Handler handler_;
  Refusal refusal_;
  int port_ = 0;
  formats::FileDescriptor listener_, epoll_;
  std::shared_ptr<Wake> wake_;
  std::unordered_map<uint64_t, ConnectionPtr> connections_;
  std::atomic<size_t> n_connections_{0};
  uint64_t next_id_ = 2;  // below: the listener and the wake
  std::shared_ptr<HeldBytes> held_ = std::make_shared<HeldBytes>(0);
  std::chrono::milliseconds sweep_interval_;
  Clock::time_point next_sweep_{}, accept_again_{};
  std::atomic<bool> closing_{false};
  std::atomic<Clock::rep> finish_at_{INT64_MAX};
};

}  // namespace linnet::server
