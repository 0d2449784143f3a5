// bench-serve: the parts alone, and the program against a server that answers as each test says.
#include "cli/bench_serve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/bench_serve_http.h"
#include "cli/bench_serve_prompts.h"
#include "cli/bench_serve_report.h"
#include "cli/bench_serve_test_support.h"
#include "cli/cli_test_support.h"
#include "core/errors.h"

namespace linnet::cli {
namespace {

using formats::ScratchFolder;
using nlohmann::json;
using testing::HasSubstr;

// A server's usual answer to a completion: `n` pieces of text, then the counts.
void reply(FakeServer::Peer& peer, int64_t n, bool chat = false) {
  peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int64_t i = 0; i < n; ++i) {
    json choice = chat ? json{{"delta", {{"content", "la "}}}} : json{{"text", "la "}};
    peer.chunk("data: " + json{{"choices", {choice}}}.dump() + "\n\n");
  }
  const json usage = {
      {"prompt_tokens", 10}, {"completion_tokens", n}, {"prompt_tokens_details", {{"cached_tokens", 4}}}};
  peer.chunk("data: " + json{{"choices", json::array()}, {"usage", usage}}.dump() + "\n\n");
  peer.chunk("data: [DONE]\n\n");
  peer.send("0\r\n\r\n");
}

constexpr const char* kModels = R"({"data": [{"id": "some-model"}]})";

Outcome bench(const FakeServer& server, std::vector<std::string> more) {
  more.insert(more.begin(), {"bench-serve", server.url, "--json"});
  return linnet(more);
}

json report(const Outcome& outcome) {
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return json::parse(outcome.out, nullptr, false);
}

TEST(bench_serve_http, answers_cut_anywhere) {
  const std::string lengths = "HTTP/1.1 429 Too Many\r\ncontent-length:  5 \r\nX: y\r\n\r\nhello";
  const std::string chunks =
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\nA\r\nlo, "
      "world!"
      "\r\n0\r\nTrailer: 1\r\n\r\n";
  const std::string to_end = "HTTP/1.0 200 OK\r\n\r\nhello";
  const std::string empty = "HTTP/1.1 204 No\r\nConnection: close\r\n\r\n";
  for (size_t step = 1; step < 120; ++step) {
    const auto read = [&](const std::string& bytes) {
      AnswerReader reader;
      for (size_t i = 0; i < bytes.size(); i += step) {
        EXPECT_FALSE(reader.complete());
        reader.feed(std::string_view(bytes).substr(i, step));
      }
      return reader;
    };
    AnswerReader a = read(lengths), b = read(chunks), c = read(to_end), d = read(empty);
    EXPECT_TRUE(a.complete() && a.keep_alive());
    EXPECT_EQ(a.status(), 429);
    EXPECT_EQ(a.take_body(), "hello");
    EXPECT_TRUE(b.complete() && b.keep_alive());
    EXPECT_EQ(b.status(), 200);
    EXPECT_EQ(b.take_body(), "hello, world!");
    EXPECT_FALSE(c.complete());
    c.end();
    EXPECT_TRUE(c.complete() && !c.keep_alive());
    EXPECT_EQ(c.take_body(), "hello");
    EXPECT_TRUE(d.complete() && !d.keep_alive());
  }
  for (const char* bad :
       {"SSH-2.0\r\n", "HTTP/1.1 2x0 OK\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"})
    EXPECT_THROW(AnswerReader().feed(bad), FormatError) << bad;
  EXPECT_THROW(AnswerReader().feed(std::string(100'000, 'H')), FormatError);
  AnswerReader cut;
  cut.feed(std::string_view(lengths).substr(0, lengths.size() - 1));
  EXPECT_THROW(cut.end(), FormatError);
}

TEST(bench_serve_http, events_cut_anywhere) {
  const std::string stream = ": hi\r\ndata: {\"a\": 1}\r\n\r\ndata:x\ndata: y\n\nevent: z\n\ndata: [DONE]\n\n";
  for (size_t step = 1; step <= stream.size(); ++step) {
    ServerEvents events;
    std::vector<std::string> got;
    for (size_t i = 0; i < stream.size(); i += step)
      for (std::string& e : events.feed(std::string_view(stream).substr(i, step))) got.push_back(e);
    EXPECT_EQ(got, (std::vector<std::string>{"{\"a\": 1}", "x\ny", "[DONE]"})) << step;
  }
}

TEST(bench_serve_http, addresses) {
  EXPECT_EQ(resolve("http://127.0.0.1:81/a/v1/").prefix, "/a");
  EXPECT_EQ(resolve("http://127.0.0.1:81").host, "127.0.0.1:81");
  EXPECT_EQ(resolve("http://[::1]:81/").address.ss_family, AF_INET6);
  for (const char* bad : {"127.0.0.1:81", "https://127.0.0.1", "http://", "http://:1", "http://h:"})
    EXPECT_THROW(resolve(bad), InvalidArgument) << bad;
}

TEST(bench_serve_report, percentiles_by_nearest_rank) {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i * 1e-3);
  const Spread s = spread(values);
  EXPECT_EQ(s.n, 100u);
  EXPECT_NEAR(s.mean, 50.5, 1e-9);
  EXPECT_DOUBLE_EQ(s.p50, 50);
  EXPECT_DOUBLE_EQ(s.p90, 90);
  EXPECT_DOUBLE_EQ(s.p99, 99);
  EXPECT_DOUBLE_EQ(s.max, 100);
  EXPECT_DOUBLE_EQ(spread({0.004}).p50, 4);
  EXPECT_DOUBLE_EQ(spread({0.004, 0.002, 0.003}).p50, 3);
  EXPECT_EQ(spread({}).n, 0u);
}

TEST(bench_serve_report, what_clients_saw) {
  // Five tokens from 1.2 to 2.0: 0.2 a token. One token: no TPOT. One failure: counted nowhere else.
  const std::vector<Sample> samples = {
      {.start = 1,
       .first = 1.2,
       .last = 2,
       .end = 2.5,
       .gaps = {0.3, 0.5},
       .prompt_tokens = 7,
       .cached_tokens = 2,
       .generated_tokens = 5},
      {.start = 2, .first = 2.6, .last = 2.6, .end = 3, .gaps = {}, .prompt_tokens = 1, .generated_tokens = 1},
      {.error = "status 429", .detail = "full", .start = 0, .end = 11}};
  const ServeReport r = summarize(samples, parse_goodput("ttft=500,tpot=250"));
  EXPECT_EQ(r.done, 2);
  EXPECT_EQ(r.failed, 1);
  EXPECT_EQ(r.good, 1);  // the second waited 600 ms for its first text
  EXPECT_DOUBLE_EQ(r.seconds, 11);
  EXPECT_EQ(r.prompt_tokens, 8);
  EXPECT_EQ(r.cached_tokens, 2);
  EXPECT_EQ(r.generated_tokens, 6);
  EXPECT_EQ(r.tpot.n, 1u);
  EXPECT_NEAR(r.tpot.max, 200, 1e-9);
  EXPECT_NEAR(r.ttft.p50, 200, 1e-9);
  EXPECT_NEAR(r.itl.max, 500, 1e-9);
  EXPECT_NEAR(r.latency.max, 1500, 1e-9);
  EXPECT_EQ(summarize(samples, parse_goodput("tpot=199")).good, 1);
  EXPECT_EQ(summarize(samples, parse_goodput("latency=1400")).good, 1);
  EXPECT_EQ(summarize(samples, {}).good, 2);
  const std::string table = report_table(r);
  EXPECT_THAT(table, HasSubstr("1 x status 429: full"));
  EXPECT_THAT(table, HasSubstr("goodput    1 of 3"));
  for (const char* bad : {"ttft", "ttft=", "ttft=-1", "x=1", "ttft=1,,", "ttft=1x", "ttft=inf"})
    EXPECT_THROW(parse_goodput(bad), InvalidArgument) << bad;
}

TEST(bench_serve_prompts, arrivals_are_a_poisson_process) {
  BenchServeArgs args;
  args.requests = 4000, args.rate = 50, args.prompt_tokens = "1";
  const ServerAddress server = resolve("http://127.0.0.1:1");
  Prompts prompts(args, server, "m");
  double last = 0, sum = 0, squares = 0;
  for (int64_t i = 0; i < args.requests; ++i) {
    const double due = prompts.next_conversation()->due;
    EXPECT_GE(due, last);
    sum += due - last, squares += (due - last) * (due - last);
    last = due;
  }
  EXPECT_FALSE(prompts.next_conversation());
  const double n = static_cast<double>(args.requests), mean = sum / n;
  EXPECT_NEAR(mean, 0.02, 0.02 * 4 / std::sqrt(n));                      // four standard deviations of the mean
  EXPECT_NEAR(std::sqrt(squares / n - mean * mean), 0.02, 0.02 * 0.15);  // an exponential's deviation is its mean
}

TEST(bench_serve_prompts, lengths_and_what_is_shared) {
  BenchServeArgs args;
  args.requests = 50, args.prompt_tokens = "20:30", args.output_tokens = "4:6", args.shared_tokens = 8;
  const ServerAddress server = resolve("http://127.0.0.1:1");
  Prompts prompts(args, server, "m");
  std::set<size_t> lengths, outputs;
  std::set<json> prefixes, all;
  while (const auto exchange = prompts.next_conversation()) {
    const json body = json::parse(exchange->request.substr(exchange->request.find("\r\n\r\n") + 4));
    const json& ids = body["prompt"];
    lengths.insert(ids.size()), outputs.insert(body["max_tokens"].get<size_t>());
    prefixes.insert(json(std::vector<int>(ids.begin(), ids.begin() + 8)));
    all.insert(json(std::vector<int>(ids.begin(), ids.begin() + 12)));
    for (const json& id : ids) EXPECT_TRUE(id >= 0 && id < 256);
  }
  EXPECT_EQ(*lengths.begin(), 20u);
  EXPECT_EQ(*lengths.rbegin(), 30u);
  EXPECT_EQ(outputs, (std::set<size_t>{4, 5, 6}));
  EXPECT_EQ(prefixes.size(), 1u);
  EXPECT_EQ(all.size(), 50u);
  for (const char* bad : {"", "0", "-1", "5:4", "x", "1:", "1:2:3", "99999999999"})
    EXPECT_THROW(parse_range(bad, "--x"), InvalidArgument) << bad;
}

// All three places are taken before any request is answered, and never more.
TEST(bench_serve, concurrency_and_counts) {
  std::mutex mutex;
  std::condition_variable changed;
  int inside = 0, most = 0, seen = 0;
  std::multiset<std::string> bodies;
  const FakeServer server([&](FakeServer::Peer& peer, const std::string& path, const std::string& body) {
    if (path == "/v1/models") return peer.answer(200, kModels);
    EXPECT_EQ(path, "/v1/completions");
    {
      std::unique_lock lock(mutex);
      bodies.insert(body);
      most = std::max(most, ++inside);
      ++seen;
      changed.notify_all();
      changed.wait(lock, [&] { return seen >= 3; });
    }
    reply(peer, json::parse(body)["max_tokens"]);
    const std::lock_guard lock(mutex);
    --inside;
  });
  const std::vector<std::string> args = {"-n", "12", "-c", "3", "--output-tokens", "5", "--seed", "9"};
  const json r = report(bench(server, args));
  EXPECT_EQ(most, 3);
  EXPECT_EQ(r["complete"], 12);
  EXPECT_EQ(r["failed"], 0);
  EXPECT_EQ(r["generated_tokens"], 60);
  EXPECT_EQ(r["prompt_tokens"], 120);
  EXPECT_EQ(r["cached_tokens"], 48);
  EXPECT_EQ(r["itl_ms"]["n"], 48);
  EXPECT_EQ(r["tpot_ms"]["n"], 12);
  const json body = json::parse(*bodies.begin());
  EXPECT_EQ(body["model"], "some-model");
  EXPECT_EQ(body["ignore_eos"], true);
  EXPECT_EQ(body["stream_options"]["include_usage"], true);
  EXPECT_EQ(body["prompt"].size(), 128u);
  const auto first = std::exchange(bodies, {});
  report(bench(server, args));
  EXPECT_EQ(bodies, first);  // the same seed, the same requests
}

TEST(bench_serve, conversations_grow) {
  std::mutex mutex;
  std::map<std::string, std::vector<json>> conversations;  // by their first message
  const FakeServer server([&](FakeServer::Peer& peer, const std::string& path, const std::string& body) {
    EXPECT_EQ(path, "/v1/chat/completions");
    const json messages = json::parse(body)["messages"];
    {
      const std::lock_guard lock(mutex);
      conversations[messages[0]["content"]].push_back(messages);
    }
    reply(peer, 2, true);
  });
  const json r = report(bench(server, {"-n", "4", "-c", "2", "--turns", "3", "--model", "m", "--prompt-tokens", "6"}));
  EXPECT_EQ(r["complete"], 12);
  ASSERT_EQ(conversations.size(), 4u);
  for (const auto& [first, turns] : conversations) {
    ASSERT_EQ(turns.size(), 3u);
    EXPECT_EQ(std::count(first.begin(), first.end(), ' '), 5) << first;
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(turns[i].size(), 2 * i + 1);
    EXPECT_EQ(turns[2][1], (json{{"role", "assistant"}, {"content", "la la "}}));
    EXPECT_EQ(json(std::vector<json>(turns[2].begin(), turns[2].begin() + 3)), turns[1]);
  }
}

TEST(bench_serve, errors_by_kind) {
  std::atomic<int> n = 0;
  const FakeServer server([&](FakeServer::Peer& peer, const std::string&, const std::string&) {
    switch (n++) {
      case 0: return peer.answer(429, R"({"error": {"message": "all places are taken"}})");
      case 1: peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"); return void(peer.close = true);
      case 2:
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        return peer.chunk("data: {\"error\": {\"message\": \"lost\"}}\n\n");
      case 3: return void(peer.close = true);
      case 4: return peer.answer(200, "data: {\"choices\": []}\n\n");  // and no [DONE]
      case 5: return peer.answer(200, "data: nonsense\n\n");
      case 6: return peer.answer(503, "plain text");
      case 7: peer.send("nonsense\r\n"); return void(peer.close = true);
      default: return reply(peer, 1);
    }
  });
  const json r = report(bench(server, {"-n", "10", "-c", "1", "--model", "m"}));
  EXPECT_EQ(r["complete"], 2);
  EXPECT_EQ(r["errors"],
            (json{{"status 429", 1}, {"answer", 4}, {"error event", 1}, {"connection", 1}, {"status 503", 1}}));
}

TEST(bench_serve, a_connection_that_ended_meanwhile_is_no_error) {
  const FakeServer server([&](FakeServer::Peer& peer, const std::string&, const std::string&) {
    reply(peer, 1);
    peer.close = true;  // without having said so
  });
  EXPECT_EQ(report(bench(server, {"-n", "20", "-c", "2", "--model", "m"}))["complete"], 20);
}

TEST(bench_serve, a_silent_server_times_out) {
  const FakeServer server([](FakeServer::Peer&, const std::string&, const std::string&) {});
  const Outcome outcome = bench(server, {"-n", "2", "--model", "m", "--timeout", "0.2"});
  EXPECT_EQ(outcome.status, 3);
  EXPECT_EQ(json::parse(outcome.out)["errors"], (json{{"timeout", 2}}));
  EXPECT_THAT(outcome.err, HasSubstr("no request was answered"));
}

// With a rate a request that waits for a place waits on the clock: otherwise a slow server would look fast.
TEST(bench_serve, waiting_for_a_place_counts_with_a_rate) {
  const FakeServer server([](FakeServer::Peer& peer, const std::string&, const std::string&) { reply(peer, 1); });
  BenchServeArgs args;
  args.requests = 2;
  const ServerAddress address = resolve(server.url);
  const Interrupt interrupt;
  for (const bool counts : {false, true}) {
    Prompts prompts(args, address, "m");  // both are due at once
    const std::vector<Sample> samples =
        run_load(address, prompts, {.concurrency = 1, .count_waiting = counts, .timeout = 60}, interrupt);
    ASSERT_EQ(samples.size(), 2u);
    EXPECT_EQ(samples[1].error, "");
    EXPECT_EQ(samples[1].text, "la ");
    EXPECT_EQ(samples[1].start == 0, counts);
    EXPECT_EQ(samples[1].start >= samples[0].end, !counts);
    EXPECT_GE(samples[1].first, samples[0].end);
  }
}

TEST(bench_serve, health) {
  std::atomic<int> n = 0;
  const FakeServer server([&](FakeServer::Peer& peer, const std::string& path, const std::string&) {
    EXPECT_EQ(path, "/health");
    ++n;
    peer.answer(200, "{}");
  });
  const json r = report(bench(server, {"--health", "--seconds", "0.1", "-c", "2"}));
  EXPECT_EQ(r["complete"], n.load());
  EXPECT_GE(r["complete"], 2);
  EXPECT_EQ(r["failed"], 0);
}

TEST(bench_serve, prompts_from_a_file) {
  const ScratchFolder folder;
  std::mutex mutex;
  std::multiset<json> asked;
  const FakeServer server([&](FakeServer::Peer& peer, const std::string&, const std::string& body) {
    const json b = json::parse(body);
    {
      const std::lock_guard lock(mutex);
      asked.insert(b.contains("prompt") ? b["prompt"] : b["messages"]);
    }
    reply(peer, 1);
  });
  const std::string good =
      folder.write("good", "{\"prompt\": \"《春曉》\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n");
  report(bench(server, {"-n", "4", "--model", "m", "--prompts", good}));
  EXPECT_EQ(asked.count("《春曉》"), 2u);
  EXPECT_EQ(asked.count(json::parse(R"([{"role": "user", "content": "a"}])")), 2u);
  const std::string bad = folder.write("bad", "{\"prompt\": \"a\"}\n{\"text\": \"b\"}\n");
  expect_refusal(bench(server, {"--model", "m", "--prompts", bad}), 3, "bad: line 2: expected \"prompt\"");
  expect_refusal(bench(server, {"--model", "m", "--prompts", folder.write("none", "")}), 3, "expected prompts");
  expect_refusal(bench(server, {"--model", "m", "--prompts", "/no/such"}), 3, "/no/such: cannot open");
}

TEST(bench_serve, refusals) {
  const FakeServer server([](FakeServer::Peer& peer, const std::string&, const std::string&) {
    peer.answer(401, R"({"error": {"message": "a key is needed"}})");
  });
  expect_refusal(bench(server, {}), 3, "/v1/models: status 401: a key is needed");
  expect_refusal(bench(server, {"-n", "0"}), 2, "--requests");
  expect_refusal(bench(server, {"--turns", "0"}), 2, "--turns");
  expect_refusal(bench(server, {"--prompt-tokens", "0"}), 2, "--prompt-tokens");
  expect_refusal(bench(server, {"--goodput", "speed=1"}), 2, "--goodput");
  expect_refusal(linnet({"bench-serve"}), 2, "URL is required");
  expect_refusal(linnet({"bench-serve", "http://127.0.0.1:1"}), 3, "connection: Connection refused");
}

}  // namespace
}  // namespace linnet::cli
