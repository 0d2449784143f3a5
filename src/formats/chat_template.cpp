#include "formats/chat_template.h"

#include <algorithm>

#include "core/errors.h"
#include "core/text.h"
#include "formats/chat_template_kimi.h"
#include "formats/jinja_json.h"
#include "formats/json_fields.h"
#include "formats/mapped_file.h"

namespace linnet::formats {

namespace {

using jinja::Text;
using jinja::TextView;
using jinja::Value;

constexpr size_t kMaxTemplateBytes = size_t{1} << 20;

// A role from this list counts as the template's own word: templates build names of tokens from it ("<|" ~ role ~ "|>").
constexpr std::string_view kRoles[] = {"system",    "user",     "assistant", "tool",
                                       "developer", "function", "ipython",   "observation"};

Value message_value(const ChatMessage& message, size_t index) {
  const bool known = std::find(std::begin(kRoles), std::end(kRoles), message.role) != std::end(kRoles);
  std::vector<std::pair<Value, Value>> members = {
      {jinja::make_text("role"), Value(text_of(message.role, known ? jinja::Origin::own : jinja::Origin::foreign))},
      {jinja::make_text("content"), Value(text_of(message.content, jinja::Origin::foreign))}};
  if (message.more.empty()) return make_dict(std::move(members));

  const std::string what = cat("messages[", index, "]");
  const Value more = jinja::value_of_json(message.more, what);
  if (!more.dict()) throw InvalidArgument(cat(what, ": more: expected a JSON object, got a ", more.type_name()));
  if (more.dict()->find(U"role")) throw InvalidArgument(cat(what, ": more: expected no role, got one"));
  for (const auto& member : more.dict()->items) members.push_back(member);
  return make_dict(std::move(members));
}

std::vector<std::pair<std::string, Value>> variables_of(std::span<const ChatMessage> messages,
                                                        const ChatOptions& options, const SpecialTokens& specials) {
  std::vector<std::pair<std::string, Value>> variables;
  std::vector<Value> list;
  for (size_t i = 0; i < messages.size(); ++i) list.push_back(message_value(messages[i], i));
  variables.emplace_back("messages", jinja::make_list(std::move(list)));
  Value tools(jinja::None{});
  if (!options.tools_json.empty()) {
    tools = jinja::value_of_json(options.tools_json, "tools");
    if (!tools.list()) throw InvalidArgument(cat("tools: expected a JSON array, got a ", tools.type_name()));
  }
  variables.emplace_back("tools", tools);
  variables.emplace_back("documents", Value(jinja::None{}));
  variables.emplace_back("add_generation_prompt", Value(options.add_generation_prompt));
  const auto add_token = [&](const char* name, std::optional<TokenId> id) {
    if (id) variables.emplace_back(name, jinja::make_text(specials.name(*id)));
  };
  add_token("bos_token", specials.bos);
  add_token("eos_token", specials.eos);
  add_token("pad_token", specials.pad);
  add_token("unk_token", specials.unk);
  if (options.variables_json.empty()) return variables;
  const Value more = jinja::value_of_json(options.variables_json, "variables");
  if (!more.dict()) throw InvalidArgument(cat("variables: expected a JSON object, got a ", more.type_name()));
  for (const auto& [name, value] : more.dict()->items) variables.emplace_back(utf8_of(*name.text()), value);
  return variables;
}

RenderedChat with_control(TextView text) {
  RenderedChat chat;
  for (size_t at = 0; at < text.size();) {
    const auto foreign = [&](size_t i) { return (text[i] & jinja::kForeign) != 0; };
    size_t end = at + 1;
    while (end < text.size() && foreign(end) == foreign(at)) ++end;
    const size_t begin_byte = chat.text.size();
    chat.text += utf8_of(text.substr(at, end - at));
    if (!foreign(at)) chat.control.push_back({begin_byte, chat.text.size()});
    at = end;
  }
  return chat;
}

std::vector<TokenId> encode_text(const Tokenizer& tokenizer, TextView text) {
  const RenderedChat chat = with_control(text);
  return tokenizer.encode(chat.text, chat.control);
}

std::string excerpt(TextView text, size_t at) {
  return cat("\"", printable(utf8_of(text.substr(std::min(at, text.size()), 20)), 60), "\"");
}

}  // namespace

ChatTemplate::ChatTemplate(jinja::Template source, const Tokenizer& tokenizer)
    : plain_(std::move(source)), tokenizer_(&tokenizer) {}

ChatTemplate ChatTemplate::kimi(const Tokenizer& tokenizer) {
  return ChatTemplate(jinja::Template::parse("built-in kimi", kKimiChatTemplate), tokenizer);
}

ChatTemplate ChatTemplate::load(const std::filesystem::path& dir, const Tokenizer& tokenizer) {
  const std::filesystem::path file = dir / "chat_template.jinja", config_file = dir / "tokenizer_config.json";
  if (exists(file)) {
    return ChatTemplate(jinja::Template::parse(file.string(), read_text_file(file, kMaxTemplateBytes)), tokenizer);
  }
  if (!exists(config_file)) return kimi(tokenizer);
  const JsonFields config = JsonFields::read(config_file);
  if (!config.has("chat_template")) return kimi(tokenizer);
  const std::string place = config_file.string() + ":chat_template";
  if (config.kind("chat_template") != JsonKind::array) {
    return ChatTemplate(jinja::Template::parse(place, config.string("chat_template")), tokenizer);
  }

  std::optional<jinja::Template> plain, with_tools;
  for (const JsonFields& named : config.objects("chat_template")) {
    const std::string name = named.string("name");
    if (name == "default") plain = jinja::Template::parse(place + ".default", named.string("template"));
    if (name == "tool_use") with_tools = jinja::Template::parse(place + ".tool_use", named.string("template"));
  }
  if (!plain) throw FormatError(config.place("chat_template") + ": expected a template named default, got none");
  ChatTemplate chat(std::move(*plain), tokenizer);
  chat.with_tools_ = std::move(with_tools);
  return chat;
}

Text ChatTemplate::render_text(std::span<const ChatMessage> messages, const ChatOptions& options) const {
  const jinja::Template& source = with_tools_ && !options.tools_json.empty() ? *with_tools_ : plain_;
  return source.render(variables_of(messages, options, tokenizer_->specials()));
}

RenderedChat ChatTemplate::render(std::span<const ChatMessage> messages, const ChatOptions& options) const {
  return with_control(render_text(messages, options));
}

std::vector<TokenId> ChatTemplate::encode(std::span<const ChatMessage> messages, const ChatOptions& options) const {
  return encode_text(*tokenizer_, render_text(messages, options));
}

ChatContinuation ChatTemplate::continuation(std::span<const ChatMessage> messages, size_t n_before,
                                            std::string_view reply_text, const ChatOptions& options) const {
  if (n_before >= messages.size()) {
    throw InvalidArgument(
        cat("continuation: n_before: expected less than the ", messages.size(), " messages, got ", n_before));
  }
  ChatOptions prompt = options;
  prompt.add_generation_prompt = true;
  const Text held = render_text(messages.first(n_before), prompt) + jinja::text_of(reply_text);
  const Text whole = render_text(messages, options);
  const auto differs = std::mismatch(held.begin(), held.end(), whole.begin(), whole.end(), jinja::TextTraits::eq).first;
  if (differs != held.end()) {
    const auto at = static_cast<size_t>(differs - held.begin());
    return {{},
            cat(name(), ": continuation: at character ", at, " of the conversation the state holds ", excerpt(held, at),
                ", the template now writes ", excerpt(whole, at), ": read the conversation anew")};
  }
  std::vector<TokenId> ids = encode_text(*tokenizer_, TextView(whole).substr(held.size()));
  if (!ids.empty() && !tokenizer_->is_special(ids[0])) {
    return {{},
            cat(name(), ": continuation: expected a special token after the reply, got the text ",
                excerpt(whole, held.size()), ": read the conversation anew")};
  }
  return {std::move(ids), ""};
}

}  // namespace linnet::formats
