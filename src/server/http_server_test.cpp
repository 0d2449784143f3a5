// HttpServer over real sockets: keep-alive, streams, hang-ups, limits, time limits, the end.
#include "server/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <semaphore>

#include "core/errors.h"
#include "formats/file_test_support.h"
#include "server/http_test_support.h"

namespace linnet::server {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

// /echo answers with the body; /stream sends "part " until told to end; /wait keeps the exchange until release.
class Running {
 public:
  explicit Running(HttpOptions options = {}) {
    options.port = 0;
    server_ = std::make_unique<HttpServer>(
        options, [this](std::shared_ptr<Exchange> e) { handle(std::move(e)); },
        [](int status, const std::string& reason) { return HttpResponse{.status = status, .body = reason}; });
    loop_ = std::thread([this] { server_->run(); });
  }
  ~Running() {
    held.clear();
    server_->finish(std::chrono::steady_clock::now());
    loop_.join();
    for (std::thread& t : threads_) t.join();
  }
  HttpServer& operator*() { return *server_; }
  HttpServer* operator->() { return server_.get(); }
  int port() { return server_->port(); }

  std::vector<std::shared_ptr<Exchange>> held;
  std::binary_semaphore holds{0};       // an exchange is held
  std::counting_semaphore<> stream{0};  // each lets one part go
  std::promise<size_t> stream_ended;    // parts until the client had gone
  std::string large = std::string(4 << 20, 'x');

  static constexpr int kDrops = 5'000;

 private:
  static void trickle(Exchange& e) {
    e.begin_stream(200, "text/event-stream", {});
    for (int i = 0; i < kDrops && e.write("."); ++i) std::this_thread::yield();
    e.end_stream();
  }
  void handle(std::shared_ptr<Exchange> e) {
    if (e->request.path == "/echo") return e->respond({.content_type = "text/plain", .body = e->request.body});
    if (e->request.path == "/drop") return;
    if (e->request.path == "/large") return e->respond({.body = large});
    if (e->request.path == "/wait") {
      held.push_back(std::move(e));
      holds.release();
    } else {
      threads_.emplace_back([this, e] {
        if (e->request.path == "/trickle") return trickle(*e);
        const bool endless = e->request.path == "/endless";
        e->begin_stream(200, "text/event-stream", {});
        size_t n = 0;
        if (!endless) stream.acquire();
        while (e->write(endless ? std::string(1000, 'p') : "part ") && ++n < (endless ? 1'000'000 : 3))
          if (!endless) stream.acquire();
        if (e->closed()) stream_ended.set_value(n);
        else e->end_stream();
      });
    }
  }
  std::unique_ptr<HttpServer> server_;
  std::thread loop_;
  std::vector<std::thread> threads_;
};

TEST(http_server, answers_on_a_connection_that_stays) {
  Running server;
  TestClient client(server.port());
  for (const char* body : {"a", "", "ccc"}) {
    client.send(post_text("/echo", body));
    const std::string answer = client.read_answer();
    EXPECT_EQ(status_of(answer), 200);
    EXPECT_EQ(body_of(answer), body);
    EXPECT_THAT(answer, HasSubstr("Connection: keep-alive"));
  }
  client.send(post_text("/echo", "1") + post_text("/echo", "2") + post_text("/echo", "3", "Connection: close\r\n"));
  const std::string all = client.read_all();  // in order, then the end
  EXPECT_LT(all.find("\r\n\r\n1"), all.find("\r\n\r\n2"));
  EXPECT_LT(all.find("\r\n\r\n2"), all.find("\r\n\r\n3"));
  EXPECT_THAT(all, HasSubstr("Connection: close"));
}

TEST(http_server, head_half_closed_clients_and_dropped_exchanges) {
  Running server;
  TestClient head(server.port());
  head.send("HEAD /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello");
  const std::string answer = head.read_all();
  EXPECT_THAT(answer, HasSubstr("Content-Length: 5"));
  EXPECT_EQ(body_of(answer), "");
  TestClient half(server.port());  // as nc -N: what was asked at once is answered
  half.send(post_text("/echo", "hello"));
  EXPECT_EQ(body_of(half.read_answer()), "hello");
  TestClient drop(server.port());
  drop.send(get_text("/drop"));
  EXPECT_EQ(status_of(drop.read_answer()), 500);
}

TEST(http_server, streams_in_chunks_and_to_old_clients_without) {
  Running server;
  TestClient client(server.port());
  client.send(get_text("/stream"));
  server.stream.release();
  EXPECT_THAT(client.read_until("part \r\n"), HasSubstr("Transfer-Encoding: chunked"));
  server.stream.release(2);
  EXPECT_EQ(client.read_until("0\r\n\r\n"), "5\r\npart \r\n5\r\npart \r\n0\r\n\r\n");
  client.send(post_text("/echo", "again"));  // the connection is good for more
  EXPECT_EQ(body_of(client.read_answer()), "again");
  TestClient old(server.port());
  old.send("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  server.stream.release(3);
  EXPECT_EQ(body_of(old.read_all()), "part part part ");
}

TEST(http_server, notices_a_hang_up_while_streaming_and_while_waiting) {
  Running server;
  TestClient streaming(server.port());
  streaming.send(get_text("/endless"));
  streaming.read_until("ppp");
  streaming.hang_up();
  EXPECT_LT(server.stream_ended.get_future().get(), 1'000'000u);
  TestClient waiting(server.port());
  waiting.send(get_text("/wait"));
  server.holds.acquire();
  EXPECT_FALSE(server.held[0]->closed());
  waiting.hang_up();
  while (!server.held[0]->closed()) std::this_thread::yield();
  server.held[0]->respond({.body = "nobody hears"});
}

TEST(http_server, a_reader_that_stops_holds_a_bounded_buffer_and_is_cut) {
  Running server({.stall_timeout = milliseconds(500)});
  TestClient slow(server.port(), /*receive_buffer=*/4096);
  slow.send(get_text("/endless"));
  // The parts that fit: the kernel's buffers and ours, far fewer than the million of 1,000 bytes.
  EXPECT_LT(server.stream_ended.get_future().get(), 20'000u);
  TestClient other(server.port());
  other.send(post_text("/echo", "x"));
  EXPECT_EQ(body_of(other.read_answer()), "x");
}

// Less than a window's bytes come, and some are always on their way when the server looks.
TEST(http_server, readers_that_take_what_there_is_are_not_cut) {
  Running server({.stall_timeout = milliseconds(1)});
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(std::make_unique<TestClient>(server.port()));
    clients.back()->send(get_text("/trickle", "Connection: close\r\n"));
  }
  for (auto& client : clients) {
    const std::string text = client->read_all();
    EXPECT_EQ(std::count(text.begin() + static_cast<std::ptrdiff_t>(text.find("\r\n\r\n")), text.end(), '.'),
              Running::kDrops);
  }
}

TEST(http_server, large_answers_arrive_whole) {
  Running server;
  TestClient client(server.port());
  client.send(get_text("/large", "Connection: close\r\n"));
  EXPECT_EQ(body_of(client.read_all()), server.large);
}

TEST(http_server, refuses_while_the_client_still_sends) {
  Running server({.limits = {.max_body_bytes = 1 << 20}});
  TestClient client(server.port());
  client.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n");
  const std::string block(1 << 20, 'b');
  for (int i = 0; i < 95; ++i) ASSERT_TRUE(client.send(block)) << i;  // the answer is not lost over it
  EXPECT_EQ(status_of(client.read_until("100000000")), 413);
  TestClient expecting(server.port());
  expecting.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(status_of(expecting.read_until("\r\n\r\n")), 100);
  expecting.send("ok");
  EXPECT_EQ(body_of(expecting.read_answer()), "ok");
}

TEST(http_server, requests_that_take_too_long) {
  Running server(
      {.head_timeout = milliseconds(100), .idle_timeout = milliseconds(100), .stall_timeout = milliseconds(100)});
  TestClient head(server.port()), body(server.port()), idle(server.port());
  head.send("GET / HT");
  body.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_EQ(status_of(head.read_all()), 408);
  EXPECT_EQ(status_of(body.read_all()), 408);
  EXPECT_EQ(idle.read_all(), "");
}

TEST(http_server, too_many_connections_are_told) {
  Running server({.max_connections = 8});
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(std::make_unique<TestClient>(server.port()));
    clients.back()->send(post_text("/echo", "in"));
    EXPECT_EQ(body_of(clients.back()->read_answer()), "in");
  }
  TestClient ninth(server.port());
  EXPECT_EQ(status_of(ninth.read_all()), 503);
  ninth.hang_up();
  clients.pop_back();
  while (server->n_connections() >= 8) std::this_thread::yield();
  TestClient again(server.port());
  again.send(post_text("/echo", "in"));
  EXPECT_EQ(body_of(again.read_answer()), "in");
}

TEST(http_server, bodies_that_arrive_share_a_limit) {
  Running server({.limits = {.max_body_bytes = 1 << 20}, .max_buffered_bytes = 3 << 20});
  std::vector<std::unique_ptr<TestClient>> clients;
  int refused = 0;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<TestClient>(server.port()));
    clients.back()->send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" +
                         std::string(999'999, 'b'));
  }
  // All have been sent and none is whole: sooner or later one is too many.
  while (std::none_of(clients.begin(), clients.end(), [](const auto& client) { return client->has_answer(); }))
    std::this_thread::yield();
  for (auto& client : clients) {
    client->send("b");
    refused += status_of(client->read_answer()) == 503;
  }
  EXPECT_GE(refused, 1);
  EXPECT_LE(refused, 3);
}

TEST(http_server, a_body_counts_until_it_has_been_read) {
  Running server({.limits = {.max_body_bytes = 1 << 20}, .max_buffered_bytes = 3 << 19});
  TestClient waiting(server.port()), other(server.port());
  waiting.send(post_text("/wait", std::string(1'000'000, 'b')));
  server.holds.acquire();
  other.send(post_text("/echo", std::string(1'000'000, 'b')));
  EXPECT_EQ(status_of(other.read_answer()), 503);
  std::vector<std::unique_ptr<TestClient>> small;
  for (int i = 0; i < 40; ++i) {
    small.push_back(std::make_unique<TestClient>(server.port()));
    small.back()->send(post_text("/wait", std::string(20'000, 'b')));
    ASSERT_TRUE(server.holds.try_acquire_for(std::chrono::seconds(60)));
  }
  for (const auto& exchange : server.held) exchange->drop_body();
  TestClient again(server.port());
  again.send(post_text("/echo", std::string(1'000'000, 'b')));
  EXPECT_EQ(status_of(again.read_answer()), 200);
}

TEST(http_server, ends_after_the_answers_that_are_under_way) {
  Running server;
  TestClient idle(server.port()), waiting(server.port());
  idle.send(post_text("/echo", "x"));
  idle.read_answer();
  waiting.send(get_text("/wait"));
  server.holds.acquire();
  server->close_listener();
  EXPECT_EQ(idle.read_all(), "");
  EXPECT_THROW(while (true) TestClient(server.port()), std::runtime_error);
  server.held[0]->respond({.body = "last"});
  EXPECT_EQ(body_of(waiting.read_answer()), "last");
}

TEST(http_server, names_what_it_cannot_bind) {
  Running server;
  const auto refused = [](const std::string& host, int port) {
    HttpServer(HttpOptions{.host = host, .port = port}, nullptr, nullptr);
  };
  EXPECT_EQ(formats::error_of<IoError>([&] { refused("127.0.0.1", server.port()); }),
            cat("127.0.0.1:", server.port(), ": cannot listen: Address already in use"));
  EXPECT_THAT(formats::error_of<InvalidArgument>([&] { refused("192.0.2.1", 0); }),
              HasSubstr("an address of this machine"));
}

}  // namespace
}  // namespace linnet::server
