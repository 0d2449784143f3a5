#include "server/http_connection.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

namespace linnet::server {

Wake::Wake() : event_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (!event_) formats::throw_io_error("eventfd", "cannot create", errno);
}

void Wake::add(uint64_t connection) {
  if (owner_.load() == std::this_thread::get_id()) return;
  {
    const std::lock_guard lock(mutex_);
    ids_.push_back(connection);
    if (ids_.size() > 1) return;  // it has been told
  }
  interrupt();
}

void Wake::interrupt() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(event_.get(), &one, sizeof one);  // full: it will wake, too
}

std::vector<uint64_t> Wake::take() {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t n = ::read(event_.get(), &count, sizeof count);
  const std::lock_guard lock(mutex_);
  return std::exchange(ids_, {});
}

void Exchange::drop_body() {
  request.body = std::string();
  *held_ -= std::exchange(n_held_, 0);
}

Exchange::~Exchange() {
  drop_body();
  if (ended_) return;
  if (!begun_) {
    respond({.status = 500,
             .body = "{\"error\":{\"message\":\"the request was dropped\",\"type\":\"server_error\","
                     "\"param\":null,\"code\":null}}"});
  } else {  // the client must not take what it has for the whole
    connection_->closed = true;
    send("", true);
  }
}

void Exchange::send(std::string_view bytes, bool last) {
  {
    const std::lock_guard lock(connection_->mutex);
    if (!connection_->closed) connection_->out += bytes;
    if (last) connection_->finished = true;
  }
  bytes_ += bytes.size();
  ended_ |= last;
  wake_->add(connection_->id);
}

void Exchange::respond(const HttpResponse& response) {
  begun_ = true;
  send(serialize(response, keep_alive_, request.method == "HEAD"), true);
}

void Exchange::begin_stream(int status, std::string_view content_type, const HeaderList& headers) {
  begun_ = true;
  chunked_ = request.chunks_understood;
  if (!chunked_) connection_->close_after = true;
  send(serialize_head(status, content_type, headers, keep_alive_ && chunked_, chunked_) + "\r\n", false);
}

bool Exchange::write(std::string_view data) {
  {
    std::unique_lock lock(connection_->mutex);
    connection_->drained.wait(lock, [&] {
      return connection_->closed || connection_->out.size() - connection_->out_begin < kMaxPendingBytes;
    });
  }
  if (closed()) return false;
  send(chunked_ ? chunk(data) : std::string(data), false);
  return true;
}

void Exchange::end_stream() { send(chunked_ ? kLastChunk : "", true); }

}  // namespace linnet::server
