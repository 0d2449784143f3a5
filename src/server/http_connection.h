// Connection: one client's socket and what is to be sent to it. Exchange: one request on it, and the way to answer it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "formats/posix_file.h"
#include "server/http_parser.h"

namespace linnet::server {

// How other threads tell the server's thread that a connection needs it.
class Wake {
 public:
  Wake();
  int descriptor() const { return event_.get(); }
  void set_owner(std::thread::id owner) { owner_ = owner; }
  void add(uint64_t connection);  // nothing to do on the server's thread: it looks by itself
  void interrupt();
  std::vector<uint64_t> take();

 private:
  formats::FileDescriptor event_;
  std::atomic<std::thread::id> owner_{};
  std::mutex mutex_;
  std::vector<uint64_t> ids_;
};

struct Connection {
  enum class Phase : uint8_t { reading, answering, lingering };
  using Clock = std::chrono::steady_clock;

  Connection(int descriptor, uint64_t number, std::string address, HttpLimits limits)
      : fd(descriptor), id(number), client(std::move(address)), parser(limits) {}

  // The server's thread only.
  formats::FileDescriptor fd;
  uint64_t id;
  std::string client;
  HttpParser parser;
  std::string unread;  // received, not yet the parser's: the client did not wait for its answer
  Phase phase = Phase::reading;
  bool keep_alive = true;
  uint32_t watched = 0;
  size_t buffered = 0;                     // of the bytes that are held
  Clock::time_point deadline{}, window{};  // window: since when window_bytes have moved
  size_t window_bytes = 0;

  // Shared with whoever answers.
  std::mutex mutex;
  std::condition_variable drained;
  std::string out;  // to be sent, from out_begin on
  size_t out_begin = 0;
  std::atomic<bool> close_after{false};  // the end of the answer is the end of the connection
  std::atomic<bool> finished{false};     // the answer is complete in `out`
  std::atomic<bool> closed{false};       // nobody listens any more
};

// Bytes of requests that are held, of all connections together: those that arrive, and those that wait to be read.
using HeldBytes = std::atomic<size_t>;

// One answer: either respond(), or begin_stream(), write()..., end_stream(). Dropped without one, it becomes a 500.
class Exchange {
 public:
  static constexpr size_t kMaxPendingBytes = 256 << 10;  // write() waits while so much has not been taken

  Exchange(std::shared_ptr<Connection> connection, std::shared_ptr<Wake> wake, HttpRequest asked, bool keep_alive,
           std::shared_ptr<HeldBytes> held, size_t n_held)
      : request(std::move(asked)),
        keep_alive_(keep_alive),
        held_(std::move(held)),
        n_held_(n_held),
        connection_(std::move(connection)),
        wake_(std::move(wake)) {}
  ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  HttpRequest request;
  void drop_body();  // which has been read: others may bring theirs

  void respond(const HttpResponse& response);
  void begin_stream(int status, std::string_view content_type, const HeaderList& headers);
  bool write(std::string_view data);  // not empty; false: the client has gone
  void end_stream();

  bool begun() const { return begun_; }
  bool closed() const { return connection_->closed; }  // the client has hung up, or was too slow
  size_t bytes() const { return bytes_; }              // of the answer so far

 private:
  void send(std::string_view bytes, bool last);

  bool keep_alive_, begun_ = false, ended_ = false, chunked_ = false;
  size_t bytes_ = 0;
  std::shared_ptr<HeldBytes> held_;
  size_t n_held_;
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<Wake> wake_;
};

}  // namespace linnet::server
