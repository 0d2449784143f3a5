// Access, metrics and the log: who is let in, what is counted and written.
#include "server/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/text.h"
#include "formats/file_test_support.h"
#include "server/api_error.h"
#include "server/metrics.h"
#include "server/request_log.h"

namespace linnet::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

int status_for(const AccessRules& rules, const HeaderList& headers, bool needs_key = true) {
  HttpRequest request;
  request.headers = headers;
  try {
    check_access(rules, request, needs_key);
  } catch (const ApiError& e) { return e.status; }
  return 200;
}

TEST(access, keys) {
  const AccessRules rules{.keys = {"alpha", "beta"}};
  for (const char* good : {"Bearer alpha", "bearer beta"})
    EXPECT_EQ(status_for(rules, {{"authorization", good}}), 200) << good;
  for (const char* bad : {"", "Bearer", "Bearer ", "Bearer alph", "Bearer alphaa", "Bearer alpha ", "alpha",
                          "Basic alpha", "Bearer ALPHA"})
    EXPECT_EQ(status_for(rules, {{"authorization", bad}}), 401) << bad;
  EXPECT_EQ(status_for(rules, {}, /*needs_key=*/false), 200);
  EXPECT_EQ(status_for({}, {}), 200);
  const formats::ScratchFolder folder;
  EXPECT_THAT(read_keys(folder.write("keys", "# no\nalpha\r\n\nbeta \n")), ElementsAre("alpha", "beta"));
  EXPECT_THAT(formats::error_of<FormatError>([&] { read_keys(folder.write("none", "# no\n\n")); }),
              HasSubstr("a key on a line"));
}

TEST(access, hosts_and_origins) {
  const AccessRules local;
  for (const char* host : {"localhost", "localhost:8080", "127.0.0.1:1", "127.1.2.3", "[::1]:8080", "a.localhost"})
    EXPECT_EQ(status_for(local, {{"host", host}}), 200) << host;
  for (const char* host :
       {"evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "192.168.0.1", "[::2]"})
    EXPECT_EQ(status_for(local, {{"host", host}}), 421) << host;
  EXPECT_EQ(status_for({.local_names_only = false}, {{"host", "any"}}), 200);
  const HeaderList own = {{"host", "localhost:8080"}, {"origin", "http://localhost:8080"}};
  const HeaderList foreign = {{"host", "localhost:8080"}, {"origin", "http://localhost:9090"}};
  EXPECT_EQ(status_for(local, own), 200);
  EXPECT_EQ(status_for(local, foreign), 403);
  EXPECT_EQ(status_for(local, {{"host", "localhost"}, {"origin", "null"}}), 403);
  EXPECT_EQ(status_for({.cors_origins = {"http://localhost:9090"}}, foreign), 200);
  EXPECT_EQ(status_for({.cors_origins = {"*"}}, foreign), 200);
}

TEST(metrics, text_for_prometheus) {
  Metrics metrics;
  metrics.request("chat", 200, 0.02);
  metrics.request("chat", 200, 1000);
  metrics.request("chat", 429, 0.001);
  metrics.usage(10, 4, 7);
  metrics.first_token(0.3);
  const std::string text = metrics.text({{"linnet_thing_bytes", "Of a thing.", "gauge", 12345678901}});
  EXPECT_THAT(
      text,
      HasSubstr("# TYPE linnet_requests_total counter\nlinnet_requests_total{route=\"chat\",status=\"200\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("linnet_requests_total{route=\"chat\",status=\"429\"} 1\n"));
  // Buckets count what is at most their bound, and all of the ones below.
  EXPECT_THAT(text, HasSubstr("linnet_request_seconds_bucket{le=\"0.001\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("linnet_request_seconds_bucket{le=\"0.025\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("linnet_request_seconds_bucket{le=\"300\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("linnet_request_seconds_bucket{le=\"+Inf\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("linnet_request_seconds_count 3\n"));
  EXPECT_THAT(text, HasSubstr("linnet_time_to_first_token_seconds_sum 0.3\n"));
  EXPECT_THAT(text, HasSubstr("linnet_cached_tokens_total 4\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE linnet_thing_bytes gauge\nlinnet_thing_bytes 12345678901\n"));
}

TEST(request_log, ids_and_lines) {
  HttpRequest request;
  const std::string fresh = request_id(request);
  EXPECT_TRUE(fresh.starts_with("req-"));
  EXPECT_NE(request_id(request), fresh);
  request.headers = {{"x-request-id", "Mine-1.2_3"}};
  EXPECT_EQ(request_id(request), "Mine-1.2_3");
  for (const std::string& bad : {std::string("a b"), std::string("a\"b"), std::string(65, 'a')}) {
    request.headers = {{"x-request-id", bad}};
    EXPECT_TRUE(request_id(request).starts_with("req-"));
  }
  const RequestRecord record{.id = "i", .method = "GET", .path = "/\"\n\xff", .client = "c", .status = 200, .bytes = 3};
  EXPECT_EQ(log_line(record, std::chrono::system_clock::time_point(std::chrono::milliseconds(1'700'000'000'123))),
            "{\"time\":\"2023-11-14T22:13:20.123Z\",\"request_id\":\"i\",\"client\":\"c\",\"method\":\"GET\",\"path\":"
            "\"/\\\"\\n\xef\xbf\xbd\","
            "\"status\":200,\"bytes\":3,\"seconds\":0.0}");
}

}  // namespace
}  // namespace linnet::server
