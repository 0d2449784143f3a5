#include "server/http_server.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::server {
namespace {

constexpr uint64_t kListenerId = 0, kWakeId = 1;
constexpr std::chrono::milliseconds kLongestSweepInterval{250};
constexpr size_t kReceiveBytes = 64 << 10;
constexpr int kBacklog = 4096;

void set_option(int fd, int level, int name) {
  const int on = 1;
  setsockopt(fd, level, name, &on, sizeof on);
}

std::string address_text(const sockaddr_storage& address, socklen_t length) {
  char host[NI_MAXHOST];
  const auto* any = reinterpret_cast<const sockaddr*>(&address);
  return getnameinfo(any, length, host, sizeof host, nullptr, 0, NI_NUMERICHOST) == 0 ? host : "?";
}

void register_with(int epoll, int fd, uint64_t id, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = id;
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) formats::throw_io_error("epoll", "cannot watch", errno);
}

}  // namespace

HttpServer::HttpServer(HttpOptions options, Handler handler, Refusal refusal)
    : options_(std::move(options)),
      handler_(std::move(handler)),
      refusal_(std::move(refusal)),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(std::make_shared<Wake>()),
      sweep_interval_(std::clamp(std::min({options_.head_timeout, options_.idle_timeout, options_.stall_timeout}) / 4,
                                 std::chrono::milliseconds(1), kLongestSweepInterval)) {
  if (!epoll_) formats::throw_io_error("epoll", "cannot create", errno);
  listen_on(options_.host, options_.port);
  register_with(epoll_.get(), listener_.get(), kListenerId, EPOLLIN);
  register_with(epoll_.get(), wake_->descriptor(), kWakeId, EPOLLIN);
}

HttpServer::~HttpServer() = default;

void HttpServer::listen_on(const std::string& host, int port) {
  const std::string place = cat(host.find(':') == std::string::npos ? host : "[" + host + "]", ":", port);
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  if (const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found); error != 0)
    throw InvalidArgument(cat(place, ": expected an address of this machine: ", gai_strerror(error)));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, freeaddrinfo);
  int error = 0;
  for (const addrinfo* a = found; a; a = a->ai_next) {
    formats::FileDescriptor fd(socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol));
    if (!fd) {
      error = errno;
      continue;
    }
    set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR);
    if (bind(fd.get(), a->ai_addr, a->ai_addrlen) == 0 && listen(fd.get(), kBacklog) == 0) {
      sockaddr_storage bound{};
      socklen_t length = sizeof bound;
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &length);
      port_ = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(bound).sin6_port
                                                : reinterpret_cast<sockaddr_in&>(bound).sin_port);
      listener_ = std::move(fd);
      return;
    }
    error = errno;
  }
  if (error == EADDRNOTAVAIL) throw InvalidArgument(cat(place, ": expected an address of this machine"));
  formats::throw_io_error(place, "cannot listen", error);
}

void HttpServer::run() {
  wake_->set_owner(std::this_thread::get_id());
  epoll_event events[256];
  while (true) {
    const Clock::time_point now = Clock::now();
    if (closing_ && listener_) {
      listener_ = formats::FileDescriptor();
      close_idle();
    }
    if (finish_at_ != INT64_MAX && (now.time_since_epoch().count() >= finish_at_ || !any_answering())) break;
    if (now >= next_sweep_) guarded(kWakeId, [&] { sweep(); });
    const int n = epoll_wait(epoll_.get(), events, 256, static_cast<int>(sweep_interval_.count()));
    for (int i = 0; i < n; ++i) {
      const uint64_t id = events[i].data.u64;
      if (id == kListenerId) guarded(id, [&] { accept_all(); });
      else if (id != kWakeId) guarded(id, [&] { on_event(id, events[i].events); });
      else
        for (uint64_t woken : wake_->take()) guarded(woken, [&] { on_event(woken, 0); });
    }
  }
  while (!connections_.empty()) close(*ConnectionPtr(connections_.begin()->second));
}

// What one connection is refused by the system (memory, a descriptor) costs that connection.
template <class Body>
void HttpServer::guarded(uint64_t id, Body body) {
  try {
    body();
  } catch (const std::exception&) {
    if (const auto found = connections_.find(id); found != connections_.end()) close(*ConnectionPtr(found->second));
  }
}

void HttpServer::close_listener() {
  closing_ = true;
  wake_->interrupt();
}

void HttpServer::finish(Clock::time_point until) {
  closing_ = true;
  finish_at_ = until.time_since_epoch().count();
  wake_->interrupt();
}

void HttpServer::accept_all() {
  while (listener_) {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    const int fd =
        accept4(listener_.get(), reinterpret_cast<sockaddr*>(&address), &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno != EAGAIN) {  // no descriptors or memory left: others may end meanwhile
        epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener_.get(), nullptr);
        accept_again_ = Clock::now() + sweep_interval_;
      }
      return;
    }
    set_option(fd, IPPROTO_TCP, TCP_NODELAY);
    // Beyond the limit, a quarter of it may stand by while 503 goes out.
    if (connections_.size() >= options_.max_connections + options_.max_connections / 4) ::close(fd);
    else add(fd, address_text(address, length), connections_.size() >= options_.max_connections);
  }
}

void HttpServer::add(int fd, std::string client, bool refused) {
  const uint64_t id = next_id_++;
  const auto c = std::make_shared<Connection>(fd, id, std::move(client), options_.limits);
  register_with(epoll_.get(), fd, id, c->watched = EPOLLIN | EPOLLRDHUP);
  connections_.emplace(id, c);
  n_connections_ = connections_.size();
  c->deadline = Clock::now() + options_.idle_timeout;
  if (refused) refuse(*c, 503, cat("more than ", options_.max_connections, " connections"));
}

void HttpServer::on_event(uint64_t id, uint32_t events) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  const ConnectionPtr c = found->second;
  if (events & (EPOLLERR | EPOLLHUP)) return close(*c);
  if (c->closed && c->phase == Connection::Phase::answering) return close(*c);  // given up by its answerer
  const bool hung_up = events & EPOLLRDHUP;
  if (c->phase == Connection::Phase::answering) {
    if (!flush(*c)) return;
    if (c->phase == Connection::Phase::answering && hung_up) {
      if (!c->finished) return close(*c);
      c->keep_alive = false;  // the rest of the answer may still be read
      watch(*c, EPOLLOUT);
    }
  } else if (events & (EPOLLIN | EPOLLRDHUP)) {
    if (!receive(*c)) return;
  }
  if (c->phase == Connection::Phase::reading) advance(c);
}

// False when the connection is gone.
bool HttpServer::receive(Connection& c) {
  thread_local std::string buffer(kReceiveBytes, '\0');
  const ssize_t n = recv(c.fd.get(), buffer.data(), buffer.size(), 0);
  if (n < 0) {
    if (errno == EAGAIN || errno == EINTR) return true;
    close(c);
    return false;
  }
  if (n == 0) {
    close(c);
    return false;
  }
  if (c.phase == Connection::Phase::reading) c.unread.append(buffer.data(), static_cast<size_t>(n));
  c.window_bytes += static_cast<size_t>(n);
  return true;
}

// Goes on with what has been received, request after request.
void HttpServer::advance(const ConnectionPtr& c) {
  while (c->phase == Connection::Phase::reading && !c->unread.empty()) {
    const bool fresh = !c->parser.begun();
    const auto before = c->parser.state();
    c->unread.erase(0, c->parser.feed(c->unread));
    if (fresh) c->deadline = Clock::now() + options_.head_timeout;
    if (before == HttpParser::State::head && c->parser.state() == HttpParser::State::body) start_window(*c);
    const size_t buffered = c->parser.buffered_bytes();
    *held_ += buffered - c->buffered;
    c->buffered = buffered;
    if (c->parser.state() == HttpParser::State::failed)
      return refuse(*c, c->parser.status(), std::string(c->parser.reason()));
    if (buffered > kSmallRequest && *held_ > options_.max_buffered_bytes)
      return refuse(*c, 503, "requests that are arriving take too much memory");
    if (c->parser.state() != HttpParser::State::complete) {
      if (c->parser.state() == HttpParser::State::body && c->parser.take_expects_continue()) {
        c->out += "HTTP/1.1 100 Continue\r\n\r\n";
        if (!flush(*c)) return;
      }
      return;
    }
    dispatch(c);
  }
}

void HttpServer::dispatch(const ConnectionPtr& c) {
  HttpRequest request = c->parser.take();
  request.client = c->client;
  request.received = Clock::now();
  c->keep_alive = request.keep_alive && !closing_;
  c->phase = Connection::Phase::answering;
  c->finished = false;
  start_window(*c);
  const size_t n_held = std::exchange(c->buffered, 0);
  handler_(std::make_shared<Exchange>(c, wake_, std::move(request), c->keep_alive, held_, n_held));
  flush(*c);
}

void HttpServer::refuse(Connection& c, int status, const std::string& reason) {
  c.keep_alive = false;
  c.phase = Connection::Phase::answering;
  c.unread = {};
  c.parser = HttpParser(options_.limits);
  *held_ -= std::exchange(c.buffered, 0);
  c.out += serialize(refusal_(status, reason), /*keep_alive=*/false, /*head_only=*/false);
  c.finished = true;
  start_window(c);
  flush(c);
}

// Sends what there is. False when the connection is gone.
bool HttpServer::flush(Connection& c) {
  bool done = false, blocked = false;
  {
    const std::lock_guard lock(c.mutex);
    while (c.out_begin < c.out.size()) {
      const ssize_t n = send(c.fd.get(), c.out.data() + c.out_begin, c.out.size() - c.out_begin, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      blocked = n < 0 && errno == EAGAIN;
      if (n < 0) break;
      c.out_begin += static_cast<size_t>(n);
      c.window_bytes += static_cast<size_t>(n);
    }
    if (c.out_begin == c.out.size()) c.out = {}, c.out_begin = 0;
    else if (c.out_begin > c.out.size() / 2) c.out.erase(0, std::exchange(c.out_begin, 0));
    done = c.finished && c.out.empty();
    if (!blocked && !c.out.empty()) c.closed = true;
  }
  c.drained.notify_all();
  if (c.closed) {
    close(c);
    return false;
  }
  if (c.phase == Connection::Phase::answering) {
    if (blocked && !(c.watched & EPOLLOUT)) start_window(c);  // from here on the client has something to take
    if (done) end_answer(c);
    else watch(c, blocked ? uint32_t{EPOLLOUT} : 0);
  }
  return connections_.contains(c.id);
}

void HttpServer::end_answer(Connection& c) {
  if (!c.keep_alive || c.close_after || closing_) return linger(c);
  c.phase = Connection::Phase::reading;
  c.finished = false;
  c.deadline = Clock::now() + options_.idle_timeout;
  watch(c, EPOLLIN);
}

// Closing at once would make the system discard what has been sent when the client is still sending, too.
void HttpServer::linger(Connection& c) {
  shutdown(c.fd.get(), SHUT_WR);
  c.phase = Connection::Phase::lingering;
  c.deadline = Clock::now() + options_.linger_timeout;
  watch(c, EPOLLIN);
}

void HttpServer::watch(Connection& c, uint32_t events) {
  events |= EPOLLRDHUP;
  if (c.phase == Connection::Phase::lingering || (events & EPOLLOUT && !c.keep_alive && c.finished))
    events &= ~static_cast<uint32_t>(EPOLLRDHUP);
  if (c.watched == events) return;
  epoll_event event{};
  event.events = c.watched = events;
  event.data.u64 = c.id;
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, c.fd.get(), &event);
}

void HttpServer::close(Connection& c) {
  {
    const std::lock_guard lock(c.mutex);
    c.closed = true;
    c.out = {}, c.out_begin = 0;
  }
  c.drained.notify_all();
  *held_ -= std::exchange(c.buffered, 0);
  c.fd = formats::FileDescriptor();  // leaves epoll, too
  connections_.erase(c.id);          // c lives on where its answer is being made
  n_connections_ = connections_.size();
}

void HttpServer::start_window(Connection& c) const {
  c.window = Clock::now();
  c.window_bytes = 0;
}

void HttpServer::sweep() {
  const Clock::time_point now = Clock::now();
  next_sweep_ = now + sweep_interval_;
  if (listener_ && accept_again_ != Clock::time_point() && now >= accept_again_) {
    accept_again_ = {};
    register_with(epoll_.get(), listener_.get(), kListenerId, EPOLLIN);
  }
  std::vector<ConnectionPtr> all;
  for (const auto& [id, c] : connections_) all.push_back(c);
  for (const ConnectionPtr& c : all) sweep(*c, now);
}

void HttpServer::sweep(Connection& c, Clock::time_point now) {
  using State = HttpParser::State;
  if (c.phase == Connection::Phase::lingering) {
    if (now >= c.deadline) close(c);
    return;
  }
  if (c.phase == Connection::Phase::reading && c.parser.state() == State::head) {
    if (now < c.deadline) return;
    if (c.parser.begun()) refuse(c, 408, "the headers took too long");
    else close(c);
    return;
  }
  if (now - c.window < options_.stall_timeout) return;
  const bool pending = c.phase == Connection::Phase::reading || (c.watched & EPOLLOUT);
  const bool stalled = pending && c.window_bytes < kMinWindowBytes;
  start_window(c);
  if (!stalled) return;
  if (c.phase == Connection::Phase::reading) refuse(c, 408, "the body came too slowly");
  else close(c);
}

bool HttpServer::any_answering() const {
  return std::any_of(connections_.begin(), connections_.end(),
                     [](const auto& entry) { return entry.second->phase == Connection::Phase::answering; });
}

void HttpServer::close_idle() {
  std::vector<ConnectionPtr> idle;
  for (const auto& [id, c] : connections_)
    if (c->phase == Connection::Phase::reading && !c->parser.begun()) idle.push_back(c);
  for (const ConnectionPtr& c : idle) close(*c);
}

}  // namespace linnet::server
