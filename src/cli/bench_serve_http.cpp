#include "cli/bench_serve_http.h"

#include <netdb.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::cli {
namespace {

constexpr size_t kMaxLine = 65536;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

int64_t number(std::string_view text, int base, const char* what) {
  int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size() || value < 0)
    throw FormatError(cat("answer: ", what, ": expected a number, got \"", printable(text, 40), "\""));
  return value;
}

}  // namespace

ServerAddress resolve(const std::string& url) {
  constexpr std::string_view scheme = "http://";
  if (url.starts_with("https://"))
    throw InvalidArgument("URL: expected http://, got https: the load generator speaks no TLS");
  if (!url.starts_with(scheme)) throw InvalidArgument(cat("URL: expected http://HOST:PORT, got ", printable(url, 80)));
  ServerAddress server;
  const std::string rest = url.substr(scheme.size());
  server.host = rest.substr(0, rest.find('/'));
  if (const size_t slash = rest.find('/'); slash != std::string::npos) server.prefix = rest.substr(slash);
  while (server.prefix.ends_with('/')) server.prefix.pop_back();
  if (server.prefix.ends_with("/v1")) server.prefix.resize(server.prefix.size() - 3);  // clients are configured with it

  std::string name = server.host, port = "80";
  const size_t bracket = name.find(']'), colon = name.find(':', bracket == std::string::npos ? 0 : bracket);
  if (colon != std::string::npos) port = name.substr(colon + 1), name.resize(colon);
  if (bracket != std::string::npos) name = name.substr(1, bracket - 1);
  if (name.empty() || port.empty())
    throw InvalidArgument(cat("URL: expected http://HOST:PORT, got ", printable(url, 80)));
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (const int error = getaddrinfo(name.c_str(), port.c_str(), &hints, &found); error != 0)
    throw IoError(cat(name, ":", port, ": ", gai_strerror(error)));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  std::memcpy(&server.address, found->ai_addr, found->ai_addrlen);
  server.address_bytes = found->ai_addrlen;
  return server;
}

std::string http_request(const ServerAddress& server, std::string_view path, std::string_view api_key,
                         std::string_view body) {
  std::string out = cat(body.empty() ? "GET " : "POST ", server.prefix, path, " HTTP/1.1\r\nHost: ", server.host,
                        "\r\nUser-Agent: linnet-bench-serve\r\n");
  if (!api_key.empty()) out += cat("Authorization: Bearer ", api_key, "\r\n");
  if (!body.empty()) out += cat("Content-Type: application/json\r\nContent-Length: ", body.size(), "\r\n");
  return cat(out, "\r\n", body);
}

void AnswerReader::feed(std::string_view bytes) {
  begun_ = begun_ || !bytes.empty();
  rest_ += bytes;
  size_t before = 0;
  do {  // until a step neither takes bytes nor changes the part
    before = rest_.size();
    if (part_ == Part::body || part_ == Part::body_to_end || part_ == Part::chunk) {
      rest_.erase(0, take_bytes(rest_.size()));
    } else if (std::string text; part_ != Part::complete && line(text)) {
      step_line(text);
    }
  } while (!rest_.empty() && rest_.size() != before);
  if (rest_.size() > kMaxLine) throw FormatError("answer: expected the end of a line");
}

// Moves a complete line, without its end, out of what has come.
bool AnswerReader::line(std::string& line) {
  const size_t end = rest_.find('\n');
  if (end == std::string::npos) return false;
  line = rest_.substr(0, end > 0 && rest_[end - 1] == '\r' ? end - 1 : end);
  rest_.erase(0, end + 1);
  return true;
}

void AnswerReader::step_line(const std::string& line) {
  switch (part_) {
    case Part::status:
      if (!line.starts_with("HTTP/1.") || line.size() < 12)
        throw FormatError(cat("answer: expected HTTP/1.1, got \"", printable(line, 40), "\""));
      keep_alive_ = line[7] != '0';
      status_ = static_cast<int>(number(std::string_view(line).substr(9, 3), 10, "status"));
      part_ = Part::headers;
      break;
    case Part::headers: line.empty() ? after_headers() : header(line); break;
    case Part::chunk_size:
      length_ = number(trimmed(std::string_view(line).substr(0, line.find(';'))), 16, "chunk size");
      part_ = length_ == 0 ? Part::trailers : Part::chunk;
      break;
    case Part::chunk_end:
      if (!line.empty()) throw FormatError("answer: expected the end of a chunk");
      part_ = Part::chunk_size;
      break;
    case Part::trailers:
      if (line.empty()) part_ = Part::complete;
      break;
    default: break;
  }
}

void AnswerReader::header(const std::string& line) {
  const size_t colon = line.find(':');
  if (colon == std::string::npos)
    throw FormatError(cat("answer: expected a header, got \"", printable(line, 40), "\""));
  const std::string name = lower(trimmed(line.substr(0, colon)));
  const std::string value = lower(trimmed(std::string_view(line).substr(colon + 1)));
  if (name == "content-length") length_ = number(value, 10, "Content-Length");
  if (name == "transfer-encoding") chunked_ = value == "chunked";
  if (name == "connection") keep_alive_ = value != "close";
}

void AnswerReader::after_headers() {
  if (status_ == 100) {
    part_ = Part::status;
  } else if (status_ == 204 || (!chunked_ && length_ == 0)) {
    part_ = Part::complete;
  } else if (chunked_) {
    part_ = Part::chunk_size;
  } else if (length_ > 0) {
    part_ = Part::body;
  } else {
    part_ = Part::body_to_end;
    keep_alive_ = false;
  }
}

size_t AnswerReader::take_bytes(size_t available) {
  const size_t n = part_ == Part::body_to_end ? available : std::min(available, static_cast<size_t>(length_));
  body_.append(rest_, 0, n);
  if (part_ == Part::body_to_end) return n;
  length_ -= static_cast<int64_t>(n);
  if (length_ == 0) part_ = part_ == Part::body ? Part::complete : Part::chunk_end;
  return n;
}

void AnswerReader::end() {
  if (part_ == Part::body_to_end) part_ = Part::complete;
  if (part_ != Part::complete) throw FormatError("answer: the connection ended in the middle of it");
}

std::vector<std::string> ServerEvents::feed(std::string_view bytes) {
  std::vector<std::string> events;
  rest_ += bytes;
  size_t from = 0;
  for (size_t end; (end = rest_.find('\n', from)) != std::string::npos; from = end + 1) {
    std::string_view line = std::string_view(rest_).substr(from, end - from);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) {
      if (has_data_) events.push_back(std::exchange(data_, {}));
      has_data_ = false;
    } else if (line.starts_with("data:")) {
      line.remove_prefix(line.starts_with("data: ") ? 6 : 5);
      if (has_data_) data_ += '\n';
      data_ += line;
      has_data_ = true;
    }
  }
  rest_.erase(0, from);
  return events;
}

}  // namespace linnet::cli
