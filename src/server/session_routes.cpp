// /v1/sessions: conversations on disk with their state, so that they go on after the server has ended as if it had not.
#include <nlohmann/json.hpp>
#include <thread>

#include "core/text.h"
#include "runtime/session_store.h"
#include "server/api_error.h"
#include "server/request_fields.h"
#include "server/routes.h"

namespace linnet::server {
namespace {

using nlohmann::ordered_json;

constexpr std::chrono::seconds kPatience{5};

const runtime::SessionStore& store_of(Service& service) {
  if (!service.sessions)
    throw ApiError(404, "sessions: the server was started without --sessions DIR", "", "no_sessions");
  return *service.sessions;
}

std::string name_of(const Call& call) { return call.request().path.substr(std::string_view("/v1/sessions/").size()); }

std::string dump(const ordered_json& json) { return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace); }

// Runs `body`, which reads or writes a session. What the disk is to blame for is not the client's error.
template <class Body>
void with_disk(Body body) {
  try {
    body();
  } catch (const IoError& e) { throw ApiError(507, e.what(), "", "storage"); } catch (const FormatError& e) {
    throw ApiError(500, e.what(), "", "session_unreadable");
  }
}

// The state of a reply is remembered a moment after its end, when the scheduler finds the time. A reply that has just ended counts once
// its round is over.
void wait_for_replies(Service& service) {
  service.scheduler.with_cache([](runtime::PrefixCache&) {});
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (service.scheduler.stats().replies_to_settle > 0 && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

void require(const runtime::SessionStore& store, const std::string& name) {
  if (!store.has(name)) throw ApiError(404, cat("sessions: there is none called ", name), "", "session_not_found");
}

}  // namespace

void answer_session_list(Service& service, Call& call) {
  ordered_json data = ordered_json::array();
  for (const runtime::SessionInfo& info : store_of(service).list()) {
    ordered_json one = {{"name", info.name},
                        {"tokens", info.tokens},
                        {"state_tokens", info.state_tokens},
                        {"bytes", info.bytes},
                        {"created", info.time}};
    if (!info.defect.empty()) one["defect"] = info.defect;
    data.push_back(std::move(one));
  }
  call.respond_json(dump({{"object", "list"}, {"data", data}}));
}

void answer_session_save(Service& service, Call& call) {
  const runtime::SessionStore& store = store_of(service);
  const std::string name = name_of(call);
  (void)store.has(name);  // whether it is one, before anything is done
  const ChatFields chat = parse_chat(call.request().body);
  check_model(chat.model, service.model);
  const runtime::Session session{.tokens = encode_chat(chat, service.model, /*add_generation_prompt=*/false),
                                 .messages = std::string(formats::json_member(call.request().body, {"messages"}))};
  wait_for_replies(service);
  const auto state = service.scheduler.copy_state(session.tokens);
  with_disk([&] { store.save(name, session, state->slot()); });
  call.respond_json(
      dump({{"name", name}, {"tokens", session.tokens.size()}, {"state_tokens", state->slot().n_tokens()}}));
}

void answer_session_load(Service& service, Call& call) {
  const runtime::SessionStore& store = store_of(service);
  const std::string name = name_of(call);
  require(store, name);
  runtime::Session session;
  with_disk([&] {
    runtime::SessionStore::Saved saved = store.open(name);
    auto state = service.scheduler.lend_state(saved.state_tokens);
    state->slot().import_from(saved.file);
    service.scheduler.remember(saved.tokens_of_state(), std::move(state));
    session = std::move(saved.session);
  });
  call.respond_json(
      dump({{"name", name}, {"tokens", session.tokens.size()}, {"messages", ordered_json::parse(session.messages)}}));
}

void answer_session_delete(Service& service, Call& call) {
  const std::string name = name_of(call);
  require(store_of(service), name);
  store_of(service).remove(name);
  call.respond_json(dump({{"name", name}, {"deleted", true}}));
}

}  // namespace linnet::server
