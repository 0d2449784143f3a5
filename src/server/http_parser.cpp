#include "server/http_parser.h"

#include <algorithm>

#include "core/text.h"

namespace linnet::server {
namespace {

constexpr std::string_view kHeadEnd = "\r\n\r\n";
constexpr size_t kMaxChunkLine = 256;  // a size and extensions that nobody uses

// RFC 9110, section 5.6.2.
bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c != '\0' && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos);
  });
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return result;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

int hex_digit(char c) {
  return c >= '0' && c <= '9'   ? c - '0'
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                : -1;
}

// False for a broken escape, and for %00, which no name here has.
bool percent_decode(std::string_view text, std::string& out) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return false;
    const int high = hex_digit(text[i + 1]), low = hex_digit(text[i + 2]);
    if (high < 0 || low < 0 || (high == 0 && low == 0)) return false;
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return true;
}

// Whether one of the comma-separated words of a header is `word`.
bool lists(std::string_view value, std::string_view word) {
  while (!value.empty()) {
    const size_t comma = std::min(value.find(','), value.size());
    if (lower(trimmed(value.substr(0, comma))) == word) return true;
    value.remove_prefix(std::min(comma + 1, value.size()));
  }
  return false;
}

}  // namespace

void HttpParser::fail(int status, std::string reason) {
  state_ = State::failed;
  status_ = status;
  reason_ = std::move(reason);
  request_.body = {};
}

HttpRequest HttpParser::take() {
  HttpRequest request = std::move(request_);
  *this = HttpParser(limits_);
  return request;
}

size_t HttpParser::feed(std::string_view bytes) {
  size_t used = 0;
  while (used < bytes.size() && (state_ == State::head || state_ == State::body)) {
    const std::string_view rest = bytes.substr(used);
    used += state_ == State::head ? feed_head(rest) : chunked_ ? feed_chunks(rest) : feed_body(rest);
  }
  return used;
}

size_t HttpParser::feed_head(std::string_view bytes) {
  size_t skipped = 0;
  if (head_.empty())  // empty lines before a request: RFC 9112, section 2.2
    while (skipped < bytes.size() && (bytes[skipped] == '\r' || bytes[skipped] == '\n')) ++skipped;
  bytes.remove_prefix(skipped);
  const size_t before = head_.size();
  const size_t room = limits_.max_head_bytes + 1 - std::min(before, limits_.max_head_bytes);
  head_.append(bytes.substr(0, room));
  const size_t end = head_.find(kHeadEnd, before < 3 ? 0 : before - 3);
  if (end == std::string::npos) {
    if (head_.size() <= limits_.max_head_bytes) return skipped + std::min(bytes.size(), room);
    if (head_.find("\r\n") == std::string::npos)
      fail(414, cat("request line: longer than ", limits_.max_head_bytes, " bytes"));
    else fail(431, cat("headers: longer than ", limits_.max_head_bytes, " bytes"));
    return skipped + bytes.size();
  }
  const size_t used = end + kHeadEnd.size() - before;
  head_.resize(end + 2);  // every line with its end
  parse_head();
  head_ = {};
  return skipped + used;
}

void HttpParser::parse_head() {
  std::string_view rest = head_;
  for (bool first = true; !rest.empty(); first = false) {
    const size_t end = rest.find("\r\n");
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end + 2);
    if (std::any_of(line.begin(), line.end(), [](char c) { return (c >= 0 && c < ' ' && c != '\t') || c == 0x7f; }))
      return fail(400, "head: a control character, or a line that does not end with CR LF");
    if (first ? !parse_request_line(line) : !parse_header(line)) return;
    if (request_.headers.size() > limits_.max_headers)
      return fail(431, cat("headers: more than ", limits_.max_headers));
  }
  interpret_headers();
}

bool HttpParser::parse_request_line(std::string_view line) {
  const size_t first = line.find(' '), last = line.rfind(' ');
  if (first == std::string_view::npos || first == last || !is_token(line.substr(0, first))) {
    fail(400, "request line: expected METHOD TARGET HTTP/1.1");
    return false;
  }
  request_.method = line.substr(0, first);
  const std::string_view version = line.substr(last + 1);
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    fail(version.starts_with("HTTP/") ? 505 : 400, "request line: expected HTTP/1.1 or HTTP/1.0");
    return false;
  }
  request_.chunks_understood = request_.keep_alive = version == "HTTP/1.1";
  return parse_target(line.substr(first + 1, last - first - 1));
}

bool HttpParser::parse_target(std::string_view target) {
  if (target.starts_with("http://")) {  // absolute form, as to a proxy
    target.remove_prefix(7);
    const size_t slash = target.find('/');
    target = slash == std::string_view::npos ? "/" : target.substr(slash);
  }
  const size_t question = std::min(target.find('?'), target.size());
  if (question < target.size()) request_.query = target.substr(question + 1);
  const bool ok = (target.starts_with('/') || target == "*") && target.find(' ') == std::string_view::npos &&
                  percent_decode(target.substr(0, question), request_.path);
  if (!ok) fail(400, "request line: expected a path that begins with /");
  return ok;
}

bool HttpParser::parse_header(std::string_view line) {
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) {  // a folded line ends here, too
    fail(400, "headers: expected NAME: VALUE");
    return false;
  }
  request_.headers.emplace_back(lower(line.substr(0, colon)), trimmed(line.substr(colon + 1)));
  return true;
}

void HttpParser::interpret_headers() {
  size_t n_host = 0, n_length = 0, n_encoding = 0;
  for (const auto& [name, value] : request_.headers) {
    n_host += name == "host";
    n_length += name == "content-length";
    n_encoding += name == "transfer-encoding";
    if (name == "connection" && lists(value, "close")) request_.keep_alive = false;
    if (name == "connection" && !request_.chunks_understood && lists(value, "keep-alive")) request_.keep_alive = true;
  }
  if (n_host > 1 || (n_host == 0 && request_.chunks_understood)) return fail(400, "host: expected one");
  if (n_length + n_encoding > 1) return fail(400, "content-length, transfer-encoding: expected one of them");
  if (const std::string_view expect = request_.header("expect"); !expect.empty()) {
    if (lower(expect) != "100-continue") return fail(417, "expect: only 100-continue is known");
    expects_continue_ = request_.chunks_understood;
  }
  state_ = State::body;
  if (n_encoding) {
    if (lower(request_.header("transfer-encoding")) != "chunked")
      return fail(501, "transfer-encoding: only chunked is known");
    chunked_ = true;
    return;
  }
  const std::string_view length = request_.header("content-length");
  if (n_length) {
    if (length.empty() || length.size() > 18 ||
        !std::all_of(length.begin(), length.end(), [](char c) { return c >= '0' && c <= '9'; }))
      return fail(400, "content-length: expected a number");
    for (char c : length) remaining_ = remaining_ * 10 + static_cast<size_t>(c - '0');
    if (remaining_ > limits_.max_body_bytes)
      return fail(413, cat("body: expected at most ", limits_.max_body_bytes, " bytes, got ", length));
  }
  if (remaining_ == 0) state_ = State::complete;
}

size_t HttpParser::feed_body(std::string_view bytes) {
  const size_t n = std::min(bytes.size(), remaining_);
  request_.body.append(bytes.substr(0, n));
  remaining_ -= n;
  if (remaining_ == 0) state_ = State::complete;
  return n;
}

size_t HttpParser::feed_chunks(std::string_view bytes) {
  if (chunk_ == Chunk::data) {
    const size_t n = std::min(bytes.size(), remaining_);
    request_.body.append(bytes.substr(0, n));
    remaining_ -= n;
    if (remaining_ == 0) chunk_ = Chunk::data_end;
    return n;
  }
  const size_t newline = bytes.find('\n');
  const size_t n = newline == std::string_view::npos ? bytes.size() : newline + 1;
  line_.append(bytes.substr(0, std::min(n, kMaxChunkLine + 1)));
  if (line_.size() > kMaxChunkLine) fail(400, "body: a chunk's line is too long");
  else if (newline != std::string_view::npos) end_chunk_line();
  return n;
}

void HttpParser::end_chunk_line() {
  if (!line_.ends_with("\r\n")) return fail(400, "body: expected CR LF around a chunk");
  std::string_view line(line_.data(), line_.size() - 2);
  if (chunk_ == Chunk::data_end) {
    if (!line.empty()) return fail(400, "body: expected CR LF behind a chunk");
    chunk_ = Chunk::size;
  } else if (chunk_ == Chunk::trailer) {
    trailer_bytes_ += line_.size();
    if (trailer_bytes_ > limits_.max_head_bytes) return fail(431, "trailers: too long");
    if (line.empty()) state_ = State::complete;  // what they say is not looked at
  } else {
    line = trimmed(line.substr(0, line.find(';')));
    size_t size = 0;
    if (line.empty() || line.size() > 8) return fail(400, "body: expected the size of a chunk");
    for (char c : line) {
      if (hex_digit(c) < 0) return fail(400, "body: expected the size of a chunk");
      size = size * 16 + static_cast<size_t>(hex_digit(c));
    }
    if (size > limits_.max_body_bytes - request_.body.size())
      return fail(413, cat("body: expected at most ", limits_.max_body_bytes, " bytes"));
    remaining_ = size;
    chunk_ = size == 0 ? Chunk::trailer : Chunk::data;
  }
  line_.clear();
}

}  // namespace linnet::server
