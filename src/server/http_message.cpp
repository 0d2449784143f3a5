#include "server/http_message.h"

#include <cassert>
#include <cstdio>
#include <ctime>

#include "core/text.h"

namespace linnet::server {

std::string_view HttpRequest::header(std::string_view lower_case_name) const {
  for (const auto& [name, value] : headers)
    if (name == lower_case_name) return value;
  return {};
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 100: return "Continue";
    case 200: return "OK";
    case 204: return "No Content";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 411: return "Length Required";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 417: return "Expectation Failed";
    case 421: return "Misdirected Request";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    case 507: return "Insufficient Storage";
    default: return "Unknown";
  }
}

namespace {

// RFC 9110, section 5.6.7. Written out: strftime's names of days follow the locale.
std::string date() {
  static constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                            "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[64];
  std::snprintf(text, sizeof text, "%s, %02d %s %04d %02d:%02d:%02d GMT", kDays[utc.tm_wday], utc.tm_mday,
                kMonths[utc.tm_mon], utc.tm_year + 1900, utc.tm_hour, utc.tm_min, utc.tm_sec);
  return text;
}

}  // namespace

std::string serialize_head(int status, std::string_view content_type, const HeaderList& headers, bool keep_alive,
                           bool chunked) {
  std::string head = cat("HTTP/1.1 ", status, " ", reason_phrase(status), "\r\nDate: ", date(), "\r\n");
  if (!content_type.empty()) head += cat("Content-Type: ", content_type, "\r\n");
  for (const auto& [name, value] : headers) head += cat(name, ": ", value, "\r\n");
  if (chunked) head += "Transfer-Encoding: chunked\r\n";
  head += keep_alive ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
  return head;
}

std::string serialize(const HttpResponse& response, bool keep_alive, bool head_only) {
  const bool bodiless = response.status == 204 || response.status == 304;
  std::string bytes = serialize_head(response.status, bodiless ? "" : response.content_type, response.headers,
                                     keep_alive, /*chunked=*/false);
  if (!bodiless) bytes += cat("Content-Length: ", response.body.size(), "\r\n");
  bytes += "\r\n";
  if (!head_only && !bodiless) bytes += response.body;
  return bytes;
}

std::string chunk(std::string_view data) {
  assert(!data.empty());
  char size[20];
  std::snprintf(size, sizeof size, "%zx\r\n", data.size());
  return cat(size, data, "\r\n");
}

}  // namespace linnet::server
