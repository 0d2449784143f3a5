#include "server/generation_request.h"

#include <algorithm>
#include <filesystem>
#include <random>

#include "core/text.h"
#include "server/api_error.h"

namespace linnet::server {
namespace {

uint64_t fresh_seed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

template <class To, class From>
void take(To& to, const std::optional<From>& from) {
  if (from) to = static_cast<To>(*from);
}

runtime::GenerateOptions options_of(const CommonFields& fields, const ModelFacts& model) {
  runtime::GenerateOptions options = model.defaults;
  runtime::SamplingParams& sampling = options.sampling;
  take(sampling.temperature, fields.temperature);
  take(sampling.top_p, fields.top_p);
  take(sampling.min_p, fields.min_p);
  take(sampling.repetition_penalty, fields.repetition_penalty);
  take(sampling.presence_penalty, fields.presence_penalty);
  take(sampling.frequency_penalty, fields.frequency_penalty);
  if (fields.top_k) sampling.top_k = std::max<int64_t>(*fields.top_k, 0);  // -1, too, means all
  if (sampling.top_p == 0) sampling.top_p = 1, sampling.top_k = 1;         // the smallest set there is
  sampling.seed = fields.seed ? *fields.seed : fresh_seed();
  sampling.logit_bias = fields.logit_bias;
  for (const auto& [id, bias] : fields.logit_bias)
    if (id >= model.vocab_size) refuse_field("logit_bias", cat("expected ids below ", model.vocab_size, ", got ", id));
  options.stop_strings = fields.stops;
  options.show_specials = !fields.skip_special_tokens;
  if (fields.ignore_eos) options.end_ids.clear();
  for (int32_t id : fields.stop_token_ids) {
    if (id >= model.vocab_size) refuse_field("stop_token_ids", cat("expected ids below ", model.vocab_size));
    options.end_ids.push_back(id);
  }
  return options;
}

// A schema that is no schema, or not one that can be kept.
[[noreturn]] void refuse_schema(const Error& e, const char* field) {
  if (exit_status(e) != 2 && exit_status(e) != 3) throw;
  throw ApiError(400, e.what(), field, "unsupported_schema");
}

void add_constraint(const CommonFields& fields, ConstraintCache& constraints, runtime::GenerateOptions& options) {
  if (fields.format == ResponseFormat::text) return;
  if (fields.ignore_eos) refuse_field("ignore_eos", "expected false where response_format says how the text ends");
  try {
    options.constraint = constraints.get(fields.format, fields.schema);
  } catch (const Error& e) { refuse_schema(e, "response_format"); }
}

void add_tools(const ChatFields& fields, ConstraintCache& constraints, runtime::GenerateOptions& options) {
  try {
    options.constraint = constraints.tools(fields.tools_json, fields.tool_choice_json, fields.parallel_tool_calls);
  } catch (const ApiError&) { throw; } catch (const formats::JsonFieldError&) {
    throw;
  } catch (const Error& e) { refuse_schema(e, "tools"); }
}

void check_prompt(const std::vector<int32_t>& ids, const char* field, const ModelFacts& model) {
  if (ids.empty()) refuse_field(field, "expected at least one token, got none");
  if (static_cast<int64_t>(ids.size()) >= model.context)
    throw ApiError(400, cat(field, ": expected fewer than ", model.context, " tokens, the context, got ", ids.size()),
                   field, "context_length_exceeded");
  for (int32_t id : ids)
    if (id >= model.vocab_size) refuse_field(field, cat("expected token ids below ", model.vocab_size, ", got ", id));
}

void take_common(const CommonFields& fields, const ModelFacts& model, GenerationRequest& request) {
  if (fields.n > model.max_choices)
    refuse_field("n", cat("expected at most ", model.max_choices, " on this server, got ", fields.n));
  request.n = fields.n;
  request.top_logprobs = fields.top_logprobs;
  request.stream = fields.stream;
  request.include_usage = fields.include_usage;
  request.unknown = fields.unknown;
}

}  // namespace

ConstraintCache::ConstraintCache(const formats::Tokenizer& tokenizer, int64_t vocab_size, std::vector<int32_t> end_ids)
    : tokenizer_(tokenizer), vocab_size_(vocab_size), end_ids_(std::move(end_ids)) {}

template <class Make>
runtime::Constraint ConstraintCache::kept(const std::string& key, Make make) {
  {
    const std::lock_guard lock(mutex_);
    if (!trie_) trie_ = std::make_shared<runtime::TokenTrie>(tokenizer_, vocab_size_);
    for (size_t i = 0; i < kept_.size(); ++i)
      if (kept_[i].first == key) {
        std::rotate(kept_.begin() + static_cast<std::ptrdiff_t>(i), kept_.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                    kept_.end());
        return kept_.back().second;
      }
  }
  runtime::Constraint made = make();  // without the lock: others need not wait for it
  const std::lock_guard lock(mutex_);
  if (kept_.size() == kKept) kept_.erase(kept_.begin());
  kept_.emplace_back(key, made);
  return made;
}

runtime::Constraint ConstraintCache::get(ResponseFormat format, const std::string& schema) {
  if (format == ResponseFormat::json_object)
    return kept("", [&] { return runtime::Constraint::json_object(trie_, end_ids_); });
  return kept(schema, [&] { return runtime::Constraint::json_schema(schema, "response_format", trie_, end_ids_); });
}

runtime::Constraint ConstraintCache::tools(const std::string& tools, const std::string& choice, bool parallel) {
  return kept(cat(parallel ? "tools " : "tool ", choice, " ", tools), [&] {
    const std::vector<runtime::Tool> list = runtime::parse_tools(tools);
    const auto chosen = [&] {
      try {
        return runtime::parse_tool_choice(choice, list);
      } catch (const FormatError& e) { throw ApiError(400, e.what(), "tool_choice"); }
    }();
    return runtime::tool_constraint(list, chosen, parallel, tokenizer_, trie_, end_ids_);
  });
}

void check_model(const std::optional<std::string>& name, const ModelFacts& model) {
  if (!name || name->empty() || *name == model.name || *name == "default") return;
  throw ApiError(
      404, cat("model: expected \"", model.name, "\", the one that is served here, got \"", printable(*name, 80), "\""),
      "model", "model_not_found");
}

std::vector<int32_t> encode_chat(const ChatFields& fields, const ModelFacts& model, bool add_generation_prompt) {
  try {
    return model.chat_template->encode(fields.messages, {.add_generation_prompt = add_generation_prompt,
                                                         .tools_json = fields.tools_json,
                                                         .variables_json = fields.variables_json});
  } catch (const Error& e) {
    if (exit_status(e) != 2 && exit_status(e) != 3) throw;
    const std::string folder = std::filesystem::path(model.chat_template->name()).parent_path() / "";
    const std::string_view what = e.what();  // clients need not know where the server's files lie
    throw ApiError(400, cat("messages: ", what.substr(what.starts_with(folder) ? folder.size() : 0)), "messages");
  }
}

GenerationRequest resolve(const ChatFields& fields, const ModelFacts& model, ConstraintCache& constraints) {
  check_model(fields.model, model);
  const bool choice = !fields.tool_choice_json.empty() && fields.tool_choice_json != "\"none\"" &&
                      fields.tool_choice_json != "\"auto\"" && fields.tool_choice_json != "null";
  if (fields.tools_json.empty() && choice) refuse_field("tool_choice", "expected tools with it, got none");
  GenerationRequest request{.endpoint = Endpoint::chat, .options = options_of(fields, model)};
  take_common(fields, model, request);
  request.prompts.push_back(encode_chat(fields, model, fields.add_generation_prompt));
  check_prompt(request.prompts[0], "messages", model);
  request.options.max_tokens = fields.max_tokens.value_or(model.reply_tokens);
  add_constraint(fields, constraints, request.options);
  const bool none = fields.tool_choice_json == "\"none\"";  // told of tools, held to text: some grammar does that
  request.tools = !fields.tools_json.empty() && !(none && request.options.constraint);
  if (request.tools && request.options.constraint)
    refuse_field("response_format", "expected plain text beside tools, got a grammar");
  if (request.tools) add_tools(fields, constraints, request.options);
  return request;
}

GenerationRequest resolve(const CompletionFields& fields, const ModelFacts& model, ConstraintCache& constraints) {
  check_model(fields.model, model);
  GenerationRequest request{.endpoint = Endpoint::completions, .options = options_of(fields, model)};
  take_common(fields, model, request);
  request.echo = fields.echo;
  request.score_prompts = fields.echo && fields.top_logprobs >= 0;
  const auto policy = fields.parse_special ? formats::SpecialPolicy::parse : formats::SpecialPolicy::as_text;
  for (const Prompt& prompt : fields.prompts) {
    const auto* text = std::get_if<std::string>(&prompt);
    request.prompts.push_back(text ? model.tokenizer->encode(*text, policy) : std::get<std::vector<int32_t>>(prompt));
    check_prompt(request.prompts.back(), "prompt", model);
  }
  constexpr int64_t kOpenAiDefault = 16;
  request.options.max_tokens = fields.max_tokens.value_or(kOpenAiDefault);
  add_constraint(fields, constraints, request.options);
  return request;
}

}  // namespace linnet::server
