// HTTP/1.1 as this server speaks it: a request that has arrived, an answer that is ready.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace linnet::server {

using HeaderList = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;  // as sent: methods are case-sensitive
  std::string path;    // percent-decoded, without the query
  std::string query;   // behind the '?', as sent
  HeaderList headers;  // names in lower case, values without surrounding blanks
  std::string body;
  bool keep_alive = true;
  bool chunks_understood = true;                     // HTTP/1.1: a body of unknown length may be sent in chunks
  std::string client;                                // address of the peer
  std::chrono::steady_clock::time_point received{};  // when its last byte had come

  std::string_view header(std::string_view lower_case_name) const;  // "" = none
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  HeaderList headers = {};
};

std::string_view reason_phrase(int status);

// The bytes of an answer. `head_only`: to a HEAD request.
std::string serialize(const HttpResponse& response, bool keep_alive, bool head_only);
// The beginning of an answer whose body comes piece by piece.
std::string serialize_head(int status, std::string_view content_type, const HeaderList& headers, bool keep_alive,
                           bool chunked);
std::string chunk(std::string_view data);  // not empty
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

}  // namespace linnet::server
