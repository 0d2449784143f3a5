// HttpParser: bytes from a client to requests, one at a time, however the bytes are cut. Strict where leniency would let two
// readers of the same bytes see different requests (RFC 9112, section 11.2).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "server/http_message.h"

namespace linnet::server {

struct HttpLimits {
  size_t max_head_bytes = 32 << 10;  // request line and headers; 414 or 431 beyond
  size_t max_headers = 100;
  size_t max_body_bytes = size_t{32} << 20;  // 413 beyond
};

class HttpParser {
 public:
  enum class State : uint8_t { head, body, complete, failed };

  explicit HttpParser(HttpLimits limits = {}) : limits_(limits) {}

  // Takes what belongs to this request and returns how many bytes that was; fewer than given only when complete or failed.
  size_t feed(std::string_view bytes);

  State state() const { return state_; }
  bool begun() const { return state_ != State::head || !head_.empty(); }
  // The client waits for "100 Continue" before it sends the body. True once.
  bool take_expects_continue() { return std::exchange(expects_continue_, false); }
  size_t buffered_bytes() const { return head_.capacity() + request_.body.capacity(); }

  HttpRequest take();  // complete: the request; the parser is as new

  // failed: what to answer. The connection is of no further use.
  int status() const { return status_; }
  const std::string& reason() const { return reason_; }

 private:
  enum class Chunk : uint8_t { size, data, data_end, trailer };

  void fail(int status, std::string reason);
  size_t feed_head(std::string_view bytes);
  size_t feed_body(std::string_view bytes);
  size_t feed_chunks(std::string_view bytes);
  void end_chunk_line();
  void parse_head();
  bool parse_request_line(std::string_view line);
  bool parse_target(std::string_view target);
  bool parse_header(std::string_view line);
  void interpret_headers();

  HttpLimits limits_;
  State state_ = State::head;
  HttpRequest request_;
  std::string head_;      // request line and headers so far
  std::string line_;      // of a chunked body: the size line or trailer so far
  size_t remaining_ = 0;  // bytes of the body, or of the chunk, to come
  size_t trailer_bytes_ = 0;
  bool chunked_ = false, expects_continue_ = false;
  Chunk chunk_ = Chunk::size;
  int status_ = 0;
  std::string reason_;
};

}  // namespace linnet::server
