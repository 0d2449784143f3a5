#include "server/routes.h"

#include <nlohmann/json.hpp>

#include "core/text.h"
#include "server/api_error.h"
#include "server/page_files.h"

namespace linnet::server {
namespace {

using nlohmann::ordered_json;

ordered_json model_json(const Service& service) {
  const ModelFacts& model = service.model;
  ordered_json json = {{"id", model.name},
                       {"object", "model"},
                       {"created", model.created},
                       {"owned_by", "linnet"},
                       {"max_model_len", model.context}};
  ordered_json ours = {{"sessions", service.sessions.has_value()}};  // for the chat page
  json["linnet"] = ours;
  if (model.card.description.empty()) return json;
  ordered_json examples = ordered_json::array();
  for (const formats::ModelCard::Example& example : model.card.examples) {
    examples.push_back({{"prompt", example.prompt}});
    if (!example.title.empty()) examples.back()["title"] = example.title;
  }
  ours["description"] = model.card.description;
  ours["examples"] = std::move(examples);
  json["linnet"] = std::move(ours);
  return json;
}

void answer_models(Service& service, Call& call) {
  call.respond_json(ordered_json{{"object", "list"}, {"data", ordered_json::array({model_json(service)})}}.dump());
}

void answer_model(Service& service, Call& call) {
  check_model(call.request().path.substr(std::string_view("/v1/models/").size()), service.model);
  call.respond_json(model_json(service).dump());
}

void answer_health(Service& service, Call& call) {
  const bool draining = service.draining;
  const runtime::SchedulerStats stats = service.scheduler.stats();
  const ordered_json json = {
      {"status", draining ? "shutting down" : "ok"}, {"running", stats.running}, {"waiting", stats.waiting}};
  call.respond({.status = draining ? 503 : 200, .body = json.dump()});
}

void answer_embeddings(Service&, Call&) {
  throw ApiError(501, "embeddings: not supported: the model generates text, it was not trained to embed it", "",
                 "unsupported_endpoint");
}

// The chat page's files may be read by whoever reaches the server: they say nothing of it.
void answer_page(Service&, Call& call) {
  const HttpRequest& request = call.request();
  for (const PageFile& file : page_files()) {
    if (file.path != request.path) continue;
    HttpResponse response{.content_type = std::string(file.content_type)};
    response.headers = {{"ETag", std::string(file.etag)},
                        {"Cache-Control", "no-cache"},
                        {"Content-Security-Policy", std::string(kPageSecurityPolicy)},
                        {"X-Content-Type-Options", "nosniff"},
                        {"Referrer-Policy", "no-referrer"}};
    if (request.header("if-none-match") == file.etag) response.status = 304;
    else response.body = file.bytes;
    return call.respond(std::move(response));
  }
  throw ApiError(404, cat("no page ", printable(request.path, 80)), "", "not_found");
}

constexpr Route kRoutes[] = {
    {.method = "GET", .path = "/health", .name = "health", .answer = answer_health, .needs_key = false},
    {.method = "GET", .path = "/metrics", .name = "metrics", .answer = answer_metrics},
    {.method = "GET", .path = "/v1/models", .name = "models", .answer = answer_models},
    {.method = "GET", .path = "/v1/models/", .name = "models", .answer = answer_model},
    {.method = "POST", .path = "/v1/chat/completions", .name = "chat", .answer = answer_chat, .at_once = false},
    {.method = "POST", .path = "/v1/completions", .name = "completions", .answer = answer_completion, .at_once = false},
    {.method = "POST", .path = "/v1/embeddings", .name = "embeddings", .answer = answer_embeddings},
    {.method = "POST", .path = "/tokenize", .name = "tokenize", .answer = answer_tokenize, .at_once = false},
    {.method = "POST", .path = "/detokenize", .name = "detokenize", .answer = answer_detokenize, .at_once = false},
    {.method = "GET", .path = "/tokenizer_info", .name = "tokenizer_info", .answer = answer_tokenizer_info},
    {.method = "GET", .path = "/v1/sessions", .name = "sessions", .answer = answer_session_list, .at_once = false},
    {.method = "PUT", .path = "/v1/sessions/", .name = "sessions", .answer = answer_session_save, .at_once = false},
    {.method = "GET", .path = "/v1/sessions/", .name = "sessions", .answer = answer_session_load, .at_once = false},
    {.method = "DELETE",
     .path = "/v1/sessions/",
     .name = "sessions",
     .answer = answer_session_delete,
     .at_once = false},
    {.method = "GET", .path = "/", .name = "page", .answer = answer_page, .needs_key = false},
    {.method = "GET", .path = "/page/", .name = "page", .answer = answer_page, .needs_key = false},
};

bool matches(const Route& route, std::string_view path) {
  const std::string_view pattern = route.path;
  if (pattern == "/" || !pattern.ends_with('/')) return path == pattern;
  return path.starts_with(pattern) && path.size() > pattern.size();
}

}  // namespace

std::span<const Route> routes() { return kRoutes; }

const Route& find_route(const HttpRequest& request) {
  const std::string_view method = request.method == "HEAD" ? "GET" : std::string_view(request.method);
  std::string allowed;
  for (const Route& route : kRoutes) {
    if (!matches(route, request.path)) continue;
    if (route.method == method) return route;
    allowed += cat(allowed.empty() ? "" : ", ", route.method);
  }
  if (allowed.empty()) throw ApiError(404, cat("no such path: ", printable(request.path, 80)), "", "not_found");
  throw ApiError(405, cat(printable(request.path, 80), ": expected ", allowed, ", got ", printable(request.method, 20)),
                 "", "method_not_allowed");
}

}  // namespace linnet::server
