// The client's side of HTTP/1.1, as far as a load generator needs it: addresses, requests, answers read piece by piece, and the
// events of a stream.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace linnet::cli {

struct ServerAddress {
  std::string host;    // as the Host header wants it: "127.0.0.1:8080"
  std::string prefix;  // of every path: "" or "/some/where"
  sockaddr_storage address{};
  socklen_t address_bytes = 0;
};

// "http://HOST[:PORT][/PREFIX]", looked up once. Throws InvalidArgument (form, https) or IoError (no such host).
ServerAddress resolve(const std::string& url);

// The bytes of a request; a body makes it a POST of JSON.
std::string http_request(const ServerAddress& server, std::string_view path, std::string_view api_key,
                         std::string_view body = {});

// Reads one answer from pieces that may be cut anywhere. Throws FormatError when it is not HTTP.
class AnswerReader {
 public:
  void feed(std::string_view bytes);
  void end();  // the connection has ended: completes an answer without a length, throws FormatError for one that is cut

  bool begun() const { return begun_; }
  bool complete() const { return part_ == Part::complete; }
  bool keep_alive() const { return keep_alive_; }  // the connection may be used again; valid once complete
  int status() const { return status_; }
  std::string take_body() { return std::exchange(body_, {}); }  // what has come since the last call

 private:
  enum class Part : uint8_t { status, headers, body, body_to_end, chunk_size, chunk, chunk_end, trailers, complete };

  bool line(std::string& line);
  void step_line(const std::string& line);
  void header(const std::string& line);
  void after_headers();
  size_t take_bytes(size_t available);

  Part part_ = Part::status;
  std::string rest_, body_;
  int status_ = 0;
  bool begun_ = false, keep_alive_ = true, chunked_ = false;
  int64_t length_ = -1;  // what is left of the body or chunk; -1: not told
};

// Cuts the body of an event stream into the data of its events.
class ServerEvents {
 public:
  std::vector<std::string> feed(std::string_view bytes);

 private:
  std::string rest_, data_;
  bool has_data_ = false;
};

}  // namespace linnet::cli
