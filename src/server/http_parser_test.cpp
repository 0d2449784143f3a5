// HttpParser: what it takes, what it refuses and how, and that it does not matter how the bytes are cut.
#include "server/http_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/text.h"

namespace linnet::server {
namespace {

using State = HttpParser::State;
using testing::HasSubstr;

HttpParser fed(std::string_view bytes, HttpLimits limits = {}) {
  HttpParser parser(limits);
  parser.feed(bytes);
  return parser;
}

void expect_refusal(std::string_view bytes, int status, const std::string& reason, HttpLimits limits = {}) {
  const HttpParser parser = fed(bytes, limits);
  ASSERT_EQ(parser.state(), State::failed) << bytes.substr(0, 80);
  EXPECT_EQ(parser.status(), status) << bytes.substr(0, 80);
  EXPECT_THAT(parser.reason(), HasSubstr(reason));
}

TEST(http_parser, request_with_a_body) {
  HttpParser parser =
      fed("POST /v1/a%20b?x=1&y HTTP/1.1\r\nHost: h:80\r\nContent-Type:  application/json \r\nContent-Length: "
          "4\r\n\r\n{}\r\nGET");
  ASSERT_EQ(parser.state(), State::complete) << parser.reason();
  const HttpRequest request = parser.take();
  EXPECT_EQ(request.method, "POST");
  EXPECT_EQ(request.path, "/v1/a b");
  EXPECT_EQ(request.query, "x=1&y");
  EXPECT_EQ(request.header("content-type"), "application/json");
  EXPECT_EQ(request.header("missing"), "");
  EXPECT_EQ(request.body, "{}\r\n");
  EXPECT_TRUE(request.keep_alive);
  EXPECT_FALSE(parser.begun());
}

TEST(http_parser, cuts_between_bytes_do_not_matter) {
  const std::string first =
      "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: "
      "chunked\r\n\r\n5;x=y\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nT: v\r\n\r\n";
  const std::string both = first + "GET /b HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
  for (size_t cut = 0; cut <= both.size(); ++cut) {
    HttpParser parser;
    std::vector<HttpRequest> requests;
    for (std::string_view part : {std::string_view(both).substr(0, cut), std::string_view(both).substr(cut)})
      while (!part.empty()) {
        part.remove_prefix(parser.feed(part));
        if (parser.state() == State::complete) requests.push_back(parser.take());
        ASSERT_NE(parser.state(), State::failed) << cut << ": " << parser.reason();
      }
    ASSERT_EQ(requests.size(), 2u) << cut;
    EXPECT_EQ(requests[0].body, "hello0123456789abcdef");
    EXPECT_EQ(requests[1].path, "/b");
    EXPECT_TRUE(requests[1].keep_alive);
    EXPECT_FALSE(requests[1].chunks_understood);
  }
  HttpParser slowly;
  for (char c : first) EXPECT_EQ(slowly.feed({&c, 1}), 1u);
  EXPECT_EQ(slowly.take().body, "hello0123456789abcdef");
}

TEST(http_parser, connection_headers) {
  const auto keep_alive = [](const std::string& head) { return fed(head + "\r\n\r\n").take().keep_alive; };
  EXPECT_TRUE(keep_alive("GET / HTTP/1.1\r\nHost: h"));
  EXPECT_FALSE(keep_alive("GET / HTTP/1.1\r\nHost: h\r\nConnection: foo, Close"));
  EXPECT_FALSE(keep_alive("GET / HTTP/1.0"));
  HttpParser parser = fed("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(parser.state(), State::body);
  EXPECT_TRUE(parser.take_expects_continue());
  EXPECT_FALSE(parser.take_expects_continue());
  EXPECT_EQ(fed("GET http://other:1/path?q HTTP/1.1\r\nHost: h\r\n\r\n").take().path, "/path");
}

TEST(http_parser, refuses_what_two_readers_may_read_differently) {
  const std::string host = " HTTP/1.1\r\nHost: h\r\n";
  expect_refusal("nonsense\r\n\r\n", 400, "request line");
  expect_refusal("G T / x HTTP/1.1\r\nHost: h\r\n\r\n", 400, "path");
  expect_refusal("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505, "HTTP/1.1");
  expect_refusal("GET nowhere" + host + "\r\n", 400, "path");
  expect_refusal("GET /%4" + host + "\r\n", 400, "path");
  expect_refusal("GET /%00" + host + "\r\n", 400, "path");
  expect_refusal("GET / HTTP/1.1\r\n\r\n", 400, "host");
  expect_refusal("GET /" + host + "Host: g\r\n\r\n", 400, "host");
  expect_refusal("GET /" + host + " folded\r\n\r\n", 400, "NAME: VALUE");
  expect_refusal("GET /" + host + "a : b\r\n\r\n", 400, "NAME: VALUE");
  expect_refusal("GET /" + host + "a: b\nc: d\r\n\r\n", 400, "CR LF");
  expect_refusal("GET /" + host + std::string("a: \0\r\n\r\n", 8), 400, "control");
  expect_refusal("POST /" + host + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400, "one of them");
  expect_refusal("POST /" + host + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "one of them");
  for (const char* length : {"", "-1", "+1", "1 1", "0x1", "99999999999999999999"})
    expect_refusal("POST /" + host + "Content-Length: " + length + "\r\n\r\n", 400, "number");
  expect_refusal("POST /" + host + "Transfer-Encoding: gzip\r\n\r\n", 501, "chunked");
  expect_refusal("POST /" + host + "Expect: cake\r\n\r\n", 417, "100-continue");
}

TEST(http_parser, refuses_broken_chunks) {
  const std::string head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const char* body : {"x\r\n", "\r\n", "-1\r\n", "123456789\r\n", "1\na\r\n", "1\r\nab\r\n", "1\r\na\n"})
    expect_refusal(head + body, 400, "chunk");
  expect_refusal(head + std::string(300, '1'), 400, "too long");
  expect_refusal(head + "5\r\nhello\r\n5\r\n", 413, "8 bytes", {.max_body_bytes = 8});
  expect_refusal(head + "0\r\n" + std::string(99, 'a') + "\r\n" + std::string(99, 'a') + "\r\n", 431, "trailers",
                 {.max_head_bytes = 150});
}

TEST(http_parser, limits) {
  expect_refusal(cat("GET /", std::string(200, 'a')), 414, "100 bytes", {.max_head_bytes = 100});
  expect_refusal(cat("GET / HTTP/1.1\r\nHost: h\r\nA: ", std::string(200, 'a')), 431, "100 bytes",
                 {.max_head_bytes = 100});
  std::string many = "GET / HTTP/1.1\r\nHost: h\r\n";
  for (int i = 0; i < 9; ++i) many += cat("h", i, ": v\r\n");
  EXPECT_EQ(fed(many + "\r\n", {.max_headers = 10}).state(), State::complete);
  expect_refusal(many + "h: v\r\n\r\n", 431, "more than 10", {.max_headers = 10});
  const std::string post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: ";
  EXPECT_EQ(fed(post + "8\r\n\r\n", {.max_body_bytes = 8}).state(), State::body);
  expect_refusal(post + "9\r\n\r\n", 413, "at most 8 bytes, got 9", {.max_body_bytes = 8});
  // A length that is claimed takes no memory before it comes.
  EXPECT_LT(fed(post + "30000000\r\n\r\n").buffered_bytes(), 4096u);
}

}  // namespace
}  // namespace linnet::server
