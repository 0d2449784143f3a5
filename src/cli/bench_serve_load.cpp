#include "cli/bench_serve_load.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>

#include "cli/bench_serve_events.h"
#include "core/errors.h"
#include "core/text.h"
#include "formats/posix_file.h"

namespace linnet::cli {
namespace {

using formats::FileDescriptor;

class Clock {
 public:
  double now() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

FileDescriptor connect_to(const ServerAddress& server) {
  FileDescriptor fd(socket(server.address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) formats::throw_io_error("socket", "cannot open", errno);
  const int one = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  const int connected = connect(fd.get(), reinterpret_cast<const sockaddr*>(&server.address), server.address_bytes);
  if (connected != 0 && errno != EINPROGRESS) throw IoError(cat("connect: ", std::strerror(errno)));
  return fd;
}

// One connection and the exchange that it carries.
class Place {
 public:
  Place(const ServerAddress& server, int poller) : server_(server), poller_(poller) {}

  bool busy() const { return busy_; }
  double started() const { return started_; }

  void begin(Exchange exchange, double now, bool count_waiting) {
    exchange_ = std::move(exchange);
    sample_ = {.conversation = exchange_.conversation, .turn = exchange_.turn};
    sample_.start = count_waiting ? std::max(exchange_.due, 0.0) : now;
    started_ = now;
    busy_ = true;
    retried_ = !fd_;  // a connection from before may have ended meanwhile: that is nobody's fault, once
    send_all();
  }

  // Goes on as far as it can. True when the exchange has ended.
  bool ready(double now) {
    try {
      if (sent_ < exchange_.request.size() && !push()) return failed("connection", now, std::strerror(errno));
      return pull(now);
    } catch (const FormatError& e) { return failed("answer", now, e.what()); }
  }

  bool failed(const char* kind, double now, std::string detail = {}) {
    close();
    sample_.error = kind;
    sample_.detail = std::move(detail);
    return ended(now);
  }

  void close() { fd_ = {}; }

  Sample take() {
    busy_ = false;
    return std::move(sample_);
  }

 private:
  void send_all() {
    reader_ = {};
    events_ = {};
    body_.clear();
    sent_ = 0;
    done_ = false;
    epoll_event event{};
    event.data.ptr = this;
    event.events = EPOLLIN | EPOLLOUT;
    const bool open = static_cast<bool>(fd_);
    if (!open) fd_ = connect_to(server_);
    epoll_ctl(poller_, open ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd_.get(), &event);
  }

  // False: the connection is gone, errno says why.
  bool push() {
    while (sent_ < exchange_.request.size()) {
      const ssize_t n =
          send(fd_.get(), exchange_.request.data() + sent_, exchange_.request.size() - sent_, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && (errno == EAGAIN || errno == ENOTCONN)) return true;
      if (n < 0) return again();
      sent_ += static_cast<size_t>(n);
    }
    epoll_event event{};
    event.data.ptr = this;
    event.events = EPOLLIN;
    epoll_ctl(poller_, EPOLL_CTL_MOD, fd_.get(), &event);
    return true;
  }

  // Asks once more on a new connection, where the old one was kept from the exchange before.
  bool again() {
    if (retried_ || reader_.begun()) return false;
    close();
    retried_ = true;
    send_all();
    return true;
  }

  bool pull(double now) {
    char buffer[65536];
    const ssize_t n = recv(fd_.get(), buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOTCONN)) return false;
    if (n < 0) {
      const int error = errno;
      return again() ? false : failed("connection", now, std::strerror(error));
    }
    if (n == 0) {
      if (!reader_.begun())
        return again() ? false : failed("connection", now, "the server closed it without an answer");
      reader_.end();
    } else {
      reader_.feed({buffer, static_cast<size_t>(n)});
    }
    if (const std::string body = reader_.take_body(); exchange_.stream && reader_.status() == 200) {
      for (const std::string& data : events_.feed(body))
        if (!event(data, now)) return true;
    } else {
      body_ += body;
    }
    return reader_.complete() && complete(now);
  }

  // One event of the stream. False when it was an error, which ends the exchange.
  bool event(const std::string& data, double now) {
    if (data == "[DONE]") return done_ = true;
    const CompletionEvent event = parse_completion_event(data);
    if (event.error) return !failed("error event", now, *event.error);
    if (event.usage) {
      sample_.prompt_tokens = event.usage->prompt_tokens;
      sample_.cached_tokens = event.usage->cached_tokens;
      sample_.generated_tokens = event.usage->generated_tokens;
    }
    for (const std::string& text : event.texts) {
      if (sample_.first > 0) sample_.gaps.push_back(now - sample_.last);
      else sample_.first = now;
      sample_.last = now;
      sample_.text += text;
    }
    return true;
  }

  bool complete(double now) {
    if (!reader_.keep_alive()) close();
    if (reader_.status() != 200) {
      sample_.error = cat("status ", reader_.status());
      sample_.detail = parse_error_message(body_);
    } else if (!exchange_.stream) {
      sample_.text = std::move(body_);
    } else if (!done_) {
      sample_.error = "answer";
      sample_.detail = "the stream ended without [DONE]";
    }
    return ended(now);
  }

  bool ended(double now) {
    sample_.end = now;
    return true;
  }

  const ServerAddress& server_;
  int poller_;
  FileDescriptor fd_;
  Exchange exchange_;
  Sample sample_;
  AnswerReader reader_;
  ServerEvents events_;
  std::string body_;
  size_t sent_ = 0;
  double started_ = 0;
  bool busy_ = false, retried_ = false, done_ = false;
};

class Load {
 public:
  Load(const ServerAddress& server, Workload& workload, const LoadOptions& options)
      : server_(server), workload_(workload), options_(options), poller_(epoll_create1(EPOLL_CLOEXEC)) {
    if (!poller_) formats::throw_io_error("epoll", "cannot open", errno);
    next_ = workload.next_conversation();
  }

  std::vector<Sample> run(const Interrupt& interrupt) {
    while ((next_ || open_ > 0) && !interrupt.raised()) {
      start_what_is_due();
      wait();
      end_what_is_late();
    }
    return std::move(samples_);
  }

 private:
  void start_what_is_due() {
    const double now = clock_.now();
    for (size_t i = 0; i < later_.size();) {
      if (later_[i].due > now) {
        ++i;
        continue;
      }
      begin(std::move(later_[i]), now, true);
      later_.erase(later_.begin() + static_cast<ptrdiff_t>(i));
    }
    while (next_ && next_->due <= now && open_ < options_.concurrency) {
      ++open_;
      begin(std::move(*next_), now, options_.count_waiting);
      next_ = workload_.next_conversation();
    }
  }

  void begin(Exchange exchange, double now, bool count_waiting) {
    auto free = std::find_if(places_.begin(), places_.end(), [](const auto& p) { return !p->busy(); });
    if (free == places_.end()) free = places_.insert(free, std::make_unique<Place>(server_, poller_.get()));
    Place& place = **free;
    try {
      place.begin(std::move(exchange), now, count_waiting);
    } catch (const IoError& e) {
      place.failed("connection", now, e.what());
      finish(place);
    }
  }

  void finish(Place& place) {
    Sample sample = place.take();
    std::optional<Exchange> turn;
    if (sample.error.empty()) turn = workload_.next_turn(sample);
    if (turn) {
      turn->due += sample.end;  // a pause after the reply
      later_.push_back(std::move(*turn));
    } else {
      --open_;
    }
    samples_.push_back(std::move(sample));
  }

  void wait() {
    const double now = clock_.now();
    double until = now + 0.1;
    if (next_ && open_ < options_.concurrency) until = std::min(until, next_->due);
    for (const Exchange& turn : later_) until = std::min(until, turn.due);
    epoll_event events[256];
    const int timeout = static_cast<int>(std::ceil(std::max(0.0, until - now) * 1e3));
    const int n = epoll_wait(poller_.get(), events, std::size(events), timeout);
    for (int i = 0; i < n; ++i) {
      Place& place = *static_cast<Place*>(events[i].data.ptr);
      if (!place.busy()) place.close();  // the server has ended a connection that it need not keep
      else if (place.ready(clock_.now())) finish(place);
    }
  }

  void end_what_is_late() {
    const double now = clock_.now();
    for (const auto& place : places_)
      if (place->busy() && now - place->started() > options_.timeout) {
        place->failed("timeout", now, cat("no complete answer in ", options_.timeout, " s"));
        finish(*place);
      }
  }

  const ServerAddress& server_;
  Workload& workload_;
  LoadOptions options_;
  Clock clock_;
  FileDescriptor poller_;
  std::vector<std::unique_ptr<Place>> places_;
  std::vector<Exchange> later_;   // turns of open conversations that wait for their pause to end
  std::optional<Exchange> next_;  // the conversation that begins next
  int64_t open_ = 0;              // conversations under way
  std::vector<Sample> samples_;
};

}  // namespace

std::vector<Sample> run_load(const ServerAddress& server, Workload& workload, const LoadOptions& options,
                             const Interrupt& interrupt) {
  return Load(server, workload, options).run(interrupt);
}

}  // namespace linnet::cli
