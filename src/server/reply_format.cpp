#include "server/reply_format.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "formats/utf8.h"

namespace linnet::server {
namespace {

using nlohmann::ordered_json;
using runtime::ScoredToken;
using runtime::TokenScore;

constexpr double kLeastLogprob = -9999;  // JSON has no -inf

std::string dump(const ordered_json& json) { return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace); }

ordered_json usage_json(const runtime::Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.generated_tokens},
          {"total_tokens", usage.prompt_tokens + usage.generated_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

ordered_json or_null(std::string_view text) { return text.empty() ? ordered_json() : ordered_json(text); }

double logprob_json(const TokenScore& score) {
  return std::isfinite(score.logprob) ? static_cast<double>(score.logprob) : kLeastLogprob;
}

ordered_json calls_json(std::span<const runtime::ToolCallDelta> calls, bool in_parts) {
  ordered_json list = ordered_json::array();
  for (const runtime::ToolCallDelta& call : calls) {
    ordered_json entry = ordered_json::object(), function = ordered_json::object();
    if (in_parts) entry["index"] = call.index;
    if (!call.id.empty()) entry["id"] = call.id, entry["type"] = "function", function["name"] = call.name;
    function["arguments"] = call.arguments;
    entry["function"] = std::move(function);
    list.push_back(std::move(entry));
  }
  return list;
}

// /v1/chat/completions: each token an object with its bytes.
class ChatFormat final : public ReplyFormat {
 public:
  using ReplyFormat::ReplyFormat;

  std::string piece(const Piece& p) override {
    ordered_json delta = ordered_json::object();
    if (p.first) delta["role"] = "assistant";
    if (p.first || !p.text.empty()) delta["content"] = p.text;
    if (!p.calls.empty()) delta["tool_calls"] = calls_json(p.calls, true);
    ordered_json choice = {
        {"index", p.index}, {"delta", delta}, {"logprobs", logprobs(p.tokens)}, {"finish_reason", or_null(p.finish)}};
    ordered_json json = envelope(piece_kind());
    json["choices"] = ordered_json::array({std::move(choice)});
    if (request_.include_usage) json["usage"] = nullptr;
    return dump(json);
  }

  std::string whole(std::span<const Choice> choices, const runtime::Usage& usage) override {
    ordered_json json = envelope("chat.completion");
    json["choices"] = ordered_json::array();
    for (const Choice& c : choices) {
      const bool only_calls = c.text.empty() && !c.calls.empty();
      ordered_json message = {
          {"role", "assistant"}, {"content", only_calls ? ordered_json() : ordered_json(c.text)}, {"refusal", nullptr}};
      if (!c.calls.empty()) message["tool_calls"] = calls_json(c.calls, false);
      json["choices"].push_back({{"index", json["choices"].size()},
                                 {"message", std::move(message)},
                                 {"logprobs", logprobs(c.tokens)},
                                 {"finish_reason", or_null(c.finish)}});
    }
    json["usage"] = usage_json(usage);
    return dump(json);
  }

 private:
  const char* piece_kind() const override { return "chat.completion.chunk"; }
  ordered_json envelope(const char* kind) const {
    return {{"id", head_.id}, {"object", kind}, {"created", head_.created}, {"model", head_.model}};
  }
  ordered_json token_json(const TokenScore& score) const {
    const std::string_view bytes = tokenizer_.bytes_of(score.id);
    ordered_json list = ordered_json::array();
    for (char c : bytes) list.push_back(static_cast<unsigned char>(c));
    return {{"token", formats::to_valid_utf8(bytes)}, {"logprob", logprob_json(score)}, {"bytes", std::move(list)}};
  }
  ordered_json logprobs(std::span<const ScoredToken> tokens) const {
    if (request_.top_logprobs < 0) return nullptr;
    ordered_json content = ordered_json::array();
    for (const ScoredToken& token : tokens) {
      ordered_json entry = token_json(token);
      entry["top_logprobs"] = ordered_json::array();
      for (const TokenScore& other : token.top) entry["top_logprobs"].push_back(token_json(other));
      content.push_back(std::move(entry));
    }
    return {{"content", std::move(content)}, {"refusal", nullptr}};
  }
};

// /v1/completions: parallel lists, with offsets into the text in characters.
class CompletionFormat final : public ReplyFormat {
 public:
  using ReplyFormat::ReplyFormat;

  std::string piece(const Piece& p) override {
    ordered_json json = envelope();
    json["choices"] = ordered_json::array({choice(p.index, std::string(p.text), p.tokens, p.finish)});
    if (request_.include_usage) json["usage"] = nullptr;
    return dump(json);
  }

  std::string whole(std::span<const Choice> choices, const runtime::Usage& usage) override {
    ordered_json json = envelope();
    json["choices"] = ordered_json::array();
    for (const Choice& c : choices)
      json["choices"].push_back(choice(static_cast<int64_t>(json["choices"].size()), c.text, c.tokens, c.finish));
    json["usage"] = usage_json(usage);
    return dump(json);
  }

 private:
  const char* piece_kind() const override { return "text_completion"; }
  ordered_json envelope() const {
    return {{"id", head_.id}, {"object", piece_kind()}, {"created", head_.created}, {"model", head_.model}};
  }
  ordered_json choice(int64_t index, const std::string& text, std::span<const ScoredToken> tokens,
                      std::string_view finish) {
    return {
        {"text", text}, {"index", index}, {"logprobs", logprobs(index, tokens)}, {"finish_reason", or_null(finish)}};
  }
  // Bytes that are no text by themselves are told apart from others by their values.
  std::string name_of(int32_t id) const {
    const std::string_view bytes = tokenizer_.bytes_of(id);
    if (formats::utf8_valid_prefix(bytes) == bytes.size()) return std::string(bytes);
    std::string name = "bytes:";
    char hex[8];
    for (char c : bytes) {
      std::snprintf(hex, sizeof hex, "\\x%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
      name += hex;
    }
    return name;
  }
  ordered_json logprobs(int64_t index, std::span<const ScoredToken> tokens) {
    if (request_.top_logprobs < 0) return nullptr;
    ordered_json names = ordered_json::array(), scores = names, tops = names, offsets = names;
    int64_t& offset = offsets_[index];
    for (const ScoredToken& token : tokens) {
      const bool scored = !std::isnan(token.logprob);  // the first token of a prompt has nothing before it
      names.push_back(name_of(token.id));
      scores.push_back(scored ? ordered_json(logprob_json(token)) : ordered_json());
      ordered_json top = ordered_json::object();
      for (const TokenScore& other : token.top) top.emplace(name_of(other.id), logprob_json(other));
      if (!token.top.empty()) top.emplace(name_of(token.id), logprob_json(token));
      tops.push_back(scored ? std::move(top) : ordered_json());
      offsets.push_back(offset);
      if (tokenizer_.is_special(token.id) && !request_.options.show_specials) continue;  // not in the text
      for (char c : tokenizer_.bytes_of(token.id)) offset += (c & 0xc0) != 0x80;
    }
    return {{"tokens", names},
            {"token_logprobs", scores},
            {"top_logprobs", request_.top_logprobs > 0 ? tops : ordered_json()},
            {"text_offset", offsets}};
  }

  std::map<int64_t, int64_t> offsets_;  // of the next token of each choice
};

}  // namespace

std::string_view finish_word(runtime::Finish finish) {
  using runtime::Finish;
  switch (finish) {
    case Finish::end_token:
    case Finish::stop_string:
    case Finish::complete: return "stop";
    default: return "length";
  }
}

std::unique_ptr<ReplyFormat> ReplyFormat::make(const GenerationRequest& request, const formats::Tokenizer& tokenizer,
                                               ReplyHead head) {
  if (request.endpoint == Endpoint::chat) return std::make_unique<ChatFormat>(request, tokenizer, std::move(head));
  return std::make_unique<CompletionFormat>(request, tokenizer, std::move(head));
}

std::string ReplyFormat::usage_piece(const runtime::Usage& usage) const {
  return dump({{"id", head_.id},
               {"object", piece_kind()},
               {"created", head_.created},
               {"model", head_.model},
               {"choices", ordered_json::array()},
               {"usage", usage_json(usage)}});
}

}  // namespace linnet::server
