#include "server/service.h"

#include <malloc.h>

#include <algorithm>
#include <ctime>

namespace linnet::server {

Service::Service(runtime::Engine& engine, const formats::Tokenizer& tokenizer,
                 const formats::ChatTemplate& chat_template, const ServerOptions& given, Log log_line)
    : options(given),
      log(std::move(log_line)),
      model{.name = given.model_name,
            .card = given.card,
            .created = std::time(nullptr),
            .vocab_size = engine.config().vocab_size,
            .context = engine.context(),
            .defaults = given.defaults,
            .reply_tokens = given.reply_tokens,
            .max_choices = std::min<int64_t>(kMaxChoices, given.scheduler.max_streams),
            .tokenizer = &tokenizer,
            .chat_template = &chat_template},
      constraints(tokenizer, engine.config().vocab_size, given.defaults.end_ids),
      scheduler(engine, tokenizer, given.scheduler) {
  if (given.sessions) sessions.emplace(*given.sessions);
}

// What a large body took to be read is the system's again, and not kept for the next one on this thread.
void Call::drop_body() {
  constexpr size_t kLarge = 1 << 20;
  const bool large = request().body.size() > kLarge;
  exchange->drop_body();
  if (large) malloc_trim(0);
}

void Call::respond(HttpResponse response) {
  response.headers.insert(response.headers.begin(), headers.begin(), headers.end());
  record.status = response.status;
  exchange->respond(response);
}

}  // namespace linnet::server
