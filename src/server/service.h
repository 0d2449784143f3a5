// Service: what the routes share. Call: one request on its way to an answer.
#pragma once

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/engine.h"
#include "runtime/scheduler.h"
#include "runtime/session_store.h"
#include "server/access.h"
#include "server/generation_request.h"
#include "server/http_server.h"
#include "server/metrics.h"
#include "server/request_log.h"

namespace linnet::server {

struct ServerOptions {
  HttpOptions http;
  AccessRules access;
  runtime::SchedulerOptions scheduler;
  std::string model_name;
  formats::ModelCard card;
  runtime::GenerateOptions defaults;              // how to sample where a request does not say, and the end ids
  int64_t reply_tokens = 2048;                    // of a chat reply whose request sets no limit
  std::optional<std::filesystem::path> sessions;  // folder of saved conversations; none: they cannot be saved
  std::chrono::milliseconds request_timeout{0};   // of one request, waiting included; 0: none
};

using Log = std::function<void(std::string_view line)>;  // any thread

struct Service {
  Service(runtime::Engine& engine, const formats::Tokenizer& tokenizer, const formats::ChatTemplate& chat_template,
          const ServerOptions& options, Log log);

  const ServerOptions& options;
  Log log;
  ModelFacts model;
  ConstraintCache constraints;
  Metrics metrics;
  runtime::Scheduler scheduler;
  std::optional<runtime::SessionStore> sessions;
  std::function<size_t()> n_connections;
  std::atomic<bool> draining{false};
};

struct Call {
  std::shared_ptr<Exchange> exchange;
  RequestRecord record;
  HeaderList headers;  // of whatever is answered

  const HttpRequest& request() const { return exchange->request; }
  void drop_body();  // it has been read
  void respond(HttpResponse response);
  void respond_json(std::string body) { respond({.body = std::move(body)}); }
};

}  // namespace linnet::server
