// /tokenize, /detokenize and /tokenizer_info: text to token ids and back, in the shapes of vLLM ("prompt") and of llama.cpp ("content").
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "formats/utf8.h"
#include "server/api_error.h"
#include "server/request_fields.h"
#include "server/routes.h"

namespace linnet::server {

using formats::JsonFields;
using nlohmann::ordered_json;

void answer_tokenize(Service& service, Call& call) {
  const ModelFacts& model = service.model;
  const JsonFields body = JsonFields::parse(call.request().body, "body", kBodyLimits);
  std::vector<int32_t> ids;
  if (body.has("messages")) {
    const ChatFields chat = parse_chat(call.request().body);
    check_model(chat.model, model);
    ids = encode_chat(chat, model, chat.add_generation_prompt);
  } else {
    check_model(body.optional_string("model"), model);
    const bool parse = body.optional_boolean("parse_special").value_or(true);
    const std::string text = body.has("content") ? body.string("content") : body.string("prompt");
    ids = model.tokenizer->encode(text, parse ? formats::SpecialPolicy::parse : formats::SpecialPolicy::as_text);
  }
  call.respond_json(ordered_json{{"tokens", ids}, {"count", ids.size()}, {"max_model_len", model.context}}.dump());
}

// What evaluation harnesses ask before they tokenize by the server.
void answer_tokenizer_info(Service& service, Call& call) {
  const formats::Tokenizer& tokenizer = *service.model.tokenizer;
  const auto name = [&](std::optional<int32_t> id) {
    return id ? ordered_json(formats::to_valid_utf8(tokenizer.bytes_of(*id))) : ordered_json();
  };
  call.respond_json(ordered_json{{"tokenizer_class", "Tokenizer"},
                                 {"vocab_size", tokenizer.vocab_size()},
                                 {"bos_token", name(tokenizer.bos_id())},
                                 {"eos_token", name(tokenizer.eos_id())}}
                        .dump());
}

void answer_detokenize(Service& service, Call& call) {
  const ModelFacts& model = service.model;
  const JsonFields body = JsonFields::parse(call.request().body, "body", kBodyLimits);
  check_model(body.optional_string("model"), model);
  const std::vector<int64_t> wide = body.integers("tokens", 0, model.tokenizer->vocab_size() - 1);
  const std::string text =
      formats::to_valid_utf8(model.tokenizer->decode(std::vector<int32_t>(wide.begin(), wide.end())));
  call.respond_json(ordered_json{{"prompt", text}, {"content", text}}.dump());
}

}  // namespace linnet::server
