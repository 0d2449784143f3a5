#include "runtime/chat.h"

#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/text.h"
#include "formats/json_fields.h"
#include "formats/utf8.h"

namespace linnet::runtime {

using formats::ChatMessage;

namespace {

constexpr const char* kNote = "linnet.chat";  // of the state file

void append(std::vector<int32_t>& to, std::span<const int32_t> ids) { to.insert(to.end(), ids.begin(), ids.end()); }

}  // namespace

Conversation::Conversation(Engine& engine, const formats::Tokenizer& tokenizer,
                           const formats::ChatTemplate& chat_template, std::string system)
    : engine_(engine), tokenizer_(tokenizer), template_(chat_template), system_(std::move(system)) {
  reset();
}

void Conversation::reset() {
  slot_ = std::make_unique<StateSlot>(engine_.new_slot());
  messages_.clear(), tokens_.clear(), pending_.clear();
  if (!system_.empty()) messages_.push_back({.role = "system", .content = system_});
}

Reply Conversation::reply(const std::string& user, const GenerateOptions& options, const TextSink& sink,
                          const Progress& prefill_progress) {
  std::vector<ChatMessage> messages = messages_;
  messages.push_back({.role = "user", .content = formats::to_valid_utf8(user)});

  Reply reply;
  std::vector<int32_t> prompt = pending_;
  if (slot_->n_tokens() > 0) {
    const size_t last_reply = messages.size() - 2;
    const formats::ChatContinuation more = template_.continuation(messages, last_reply, messages[last_reply].content);
    append(prompt, more.ids);
    reply.read_anew = more.refusal;
  }
  std::unique_ptr<StateSlot> fresh;  // the old one stays until the new one has been read
  if (slot_->n_tokens() == 0 || !reply.read_anew.empty()) {
    fresh = std::make_unique<StateSlot>(engine_.new_slot());
    prompt = template_.encode(messages);
  }
  StateSlot& slot = fresh ? *fresh : *slot_;
  const std::vector<int32_t> history = fresh ? std::vector<int32_t>() : tokens_;
  GenerateOptions turn = options;
  turn.sampling.seed = mix64(options.sampling.seed + messages.size());
  try {
    reply.result = generate(engine_, slot, tokenizer_, history, prompt, turn, sink, prefill_progress);
  } catch (...) {
    if (slot_->n_tokens() != static_cast<int64_t>(tokens_.size())) reset();
    throw;
  }

  std::vector<int32_t> said = reply.result.tokens;  // an end token that closed the reply is left to the template
  if (reply.result.finish == Finish::end_token) said.pop_back();
  messages.push_back({.role = "assistant", .content = formats::to_valid_utf8(tokenizer_.decode(said))});
  tokens_ = history;
  append(tokens_, prompt);
  append(tokens_, said);
  pending_.assign(tokens_.begin() + slot.n_tokens(), tokens_.end());  // generate() leaves the last token to us
  tokens_.resize(static_cast<size_t>(slot.n_tokens()));
  if (fresh) slot_ = std::move(fresh);
  messages_ = std::move(messages);
  return reply;
}

void Conversation::save(const std::filesystem::path& file) const {
  nlohmann::ordered_json note = {
      {"messages", nlohmann::ordered_json::array()}, {"tokens", tokens_}, {"pending", pending_}};
  for (const ChatMessage& m : messages_) note["messages"].push_back({{"role", m.role}, {"content", m.content}});
  slot_->export_to(file, {{kNote, note.dump()}});
}

void Conversation::load(const std::filesystem::path& file) {
  auto slot = std::make_unique<StateSlot>(engine_.new_slot());
  const std::map<std::string, std::string> notes = slot->import_from(file);
  const auto note = notes.find(kNote);
  if (note == notes.end()) throw FormatError(cat(file.string(), ": expected a saved chat, got a state without one"));
  const auto fields = formats::JsonFields::parse(note->second, cat(file.string(), ": ", kNote));
  std::vector<ChatMessage> messages;
  for (const formats::JsonFields& m : fields.objects("messages"))
    messages.push_back({.role = m.string("role"), .content = m.string("content")});
  const auto ids_of = [&](const char* key) {
    const std::vector<int64_t> ids = fields.integers(key, 0, engine_.config().vocab_size - 1);
    return std::vector<int32_t>(ids.begin(), ids.end());
  };
  std::vector<int32_t> tokens = ids_of("tokens"), pending = ids_of("pending");
  if (static_cast<int64_t>(tokens.size()) != slot->n_tokens())
    throw fields.error("tokens", cat("the ", slot->n_tokens(), " tokens of the state"));
  if (!tokens.empty() && (messages.empty() || messages.back().role != "assistant"))
    throw fields.error("messages", "a conversation that ends with a reply");
  slot_ = std::move(slot);
  messages_ = std::move(messages), tokens_ = std::move(tokens), pending_ = std::move(pending);
  system_ = !messages_.empty() && messages_[0].role == "system" ? messages_[0].content : "";
}

}  // namespace linnet::runtime
