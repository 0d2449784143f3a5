// Routes: which path does what.
#pragma once

#include <span>
#include <string_view>

#include "server/service.h"

namespace linnet::server {

struct Route {
  const char* method;
  const char* path;                 // one that ends with '/' stands for all that begin with it
  const char* name;                 // in the metrics
  void (*answer)(Service&, Call&);  // throws ApiError, ClientGone and what the runtime throws
  bool needs_key = true;
  bool at_once = true;  // on the server's own thread: must not wait for anything
};

std::span<const Route> routes();

// The route of a request; throws ApiError 404, or 405 where the path has other methods. HEAD is GET.
const Route& find_route(const HttpRequest& request);

// The answers that live elsewhere.
void answer_chat(Service& service, Call& call);
void answer_completion(Service& service, Call& call);
void answer_tokenize(Service& service, Call& call);
void answer_detokenize(Service& service, Call& call);
void answer_tokenizer_info(Service& service, Call& call);
void answer_metrics(Service& service, Call& call);
void answer_session_list(Service& service, Call& call);
void answer_session_save(Service& service, Call& call);
void answer_session_load(Service& service, Call& call);
void answer_session_delete(Service& service, Call& call);

}  // namespace linnet::server
