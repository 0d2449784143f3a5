#include "server/server.h"

#include <sys/resource.h>

#include <thread>

#include "core/text.h"
#include "server/api_error.h"
#include "server/routes.h"
#include "server/worker_pool.h"

namespace linnet::server {
namespace {

constexpr int kClientGoneStatus = 499;         // in the log and the metrics: there is no such answer
constexpr size_t kSpareThreads = 16;           // for what waits for no place: tokenize, refusals
constexpr size_t kSpareDescriptors = 128;      // for files of the program
constexpr std::chrono::seconds kLastBytes{3};  // for answers to reach their clients when all is over

// Descriptors for the connections, as far as the system lets us.
size_t allow_connections(size_t wanted) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  const size_t room = limit.rlim_cur > 2 * kSpareDescriptors ? (limit.rlim_cur - kSpareDescriptors) * 4 / 5 : 64;
  return std::min(wanted, room);  // a quarter more may stand by while they are refused
}

}  // namespace

class Server::Implementation {
 public:
  Implementation(runtime::Engine& engine, const formats::Tokenizer& tokenizer,
                 const formats::ChatTemplate& chat_template, ServerOptions options, Log log)
      : options_(prepared(std::move(options))),
        service_(engine, tokenizer, chat_template, options_, std::move(log)),
        http_(
            options_.http, [this](std::shared_ptr<Exchange> exchange) { handle(std::move(exchange)); },
            [this](int status, const std::string& reason) { return refuse(status, reason); }),
        workers_(static_cast<size_t>(options_.scheduler.max_streams + options_.scheduler.max_queue) + kSpareThreads) {
    service_.n_connections = [this] { return http_.n_connections(); };
    loop_ = std::thread([this] { http_.run(); });
  }

  ~Implementation() { stop(std::chrono::steady_clock::now()); }

  int port() const { return http_.port(); }

  void stop(std::chrono::steady_clock::time_point until) {
    if (!loop_.joinable()) return;
    service_.draining = true;
    http_.close_listener();
    service_.scheduler.drain(until);
    http_.finish(std::max(until, std::chrono::steady_clock::now()) + kLastBytes);
    loop_.join();
  }

 private:
  static ServerOptions prepared(ServerOptions options) {
    options.http.max_connections = allow_connections(options.http.max_connections);
    return options;
  }

  // On the server's thread.
  void handle(std::shared_ptr<Exchange> exchange) {
    const auto call = std::make_shared<Call>();
    call->exchange = std::move(exchange);
    const HttpRequest& request = call->request();
    call->record = {.id = request_id(request),
                    .route = "unknown",
                    .method = request.method,
                    .path = request.path,
                    .client = request.client};
    call->headers = cors_headers(options_.access, request);
    call->headers.emplace_back("X-Request-Id", call->record.id);
    bool handed_on = false;
    guarded(*call, [&] {
      check_access(options_.access, request, false);
      if (request.method == "OPTIONS" && !request.header("access-control-request-method").empty())
        return call->respond({.status = 204});
      const Route& route = find_route(request);
      call->record.route = route.name;
      if (route.needs_key) check_access(options_.access, request, true);
      if (route.at_once) return route.answer(service_, *call);
      handed_on = workers_.try_run([this, call, &route] {
        guarded(*call, [&] { route.answer(service_, *call); });
        end(*call);
      });
      if (handed_on) return;
      ApiError busy(429, "the server has all the requests that it can hold", "", "busy");
      busy.retry_after_seconds = 1;
      throw busy;
    });
    if (!handed_on) end(*call);
  }

  // Makes whatever is thrown an answer.
  template <class Body>
  void guarded(Call& call, Body body) {
    try {
      body();
    } catch (const ClientGone&) {
      call.record.finish = "hung up";
      call.record.status = kClientGoneStatus;
      service_.metrics.hang_up();
    } catch (const std::exception& e) {
      const ApiError error = to_api_error(e);
      if (error.status >= 500) call.record.error = e.what();
      call.record.finish = error.code;
      answer_error(call, error);
      call.record.status = error.status;
    }
  }

  static void answer_error(Call& call, const ApiError& error) {
    if (!call.exchange->begun()) return call.respond(error_response(error));
    if (call.exchange->write(cat("data: ", error_json(error), "\n\n"))) call.exchange->end_stream();
  }

  void end(Call& call) {
    call.drop_body();
    RequestRecord& record = call.record;
    record.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - call.request().received).count();
    record.bytes = call.exchange->bytes();
    service_.metrics.request(record.route, record.status, record.seconds);
    const bool routine = record.status == 200 && (record.route == "health" || record.route == "metrics");
    if (!routine && service_.log) service_.log(log_line(record, std::chrono::system_clock::now()));
  }

  HttpResponse refuse(int status, const std::string& reason) {
    service_.metrics.request("none", status, 0);
    ApiError error(status, reason, "", status == 503 ? "overloaded" : "bad_request");
    if (status == 503) error.retry_after_seconds = 1;
    return error_response(error);
  }

  const ServerOptions options_;
  Service service_;
  HttpServer http_;
  WorkerPool workers_;  // goes first: its tasks use the rest
  std::thread loop_;
};

Server::Server(runtime::Engine& engine, const formats::Tokenizer& tokenizer, const formats::ChatTemplate& chat_template,
               ServerOptions options, Log log)
    : implementation_(
          std::make_unique<Implementation>(engine, tokenizer, chat_template, std::move(options), std::move(log))) {}
Server::~Server() = default;
int Server::port() const { return implementation_->port(); }
void Server::stop(std::chrono::steady_clock::time_point until) { implementation_->stop(until); }

}  // namespace linnet::server
