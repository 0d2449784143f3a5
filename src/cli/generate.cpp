#include "cli/generate.h"

#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "core/errors.h"
#include "core/text.h"
#include "formats/mapped_file.h"
#include "runtime/constraint/json_schema.h"

namespace linnet::cli {
namespace {

std::vector<int32_t> prompt_tokens(const GenerateArgs& args, const formats::Tokenizer& tokenizer) {
  const std::string text = read_text(args.prompt, "prompt");
  std::vector<int32_t> ids =
      tokenizer.encode(text, args.parse_specials ? formats::SpecialPolicy::parse : formats::SpecialPolicy::as_text);
  if (args.bos) {
    if (!tokenizer.bos_id()) throw InvalidArgument("--bos: the tokenizer has no such token");
    ids.insert(ids.begin(), *tokenizer.bos_id());
  }
  if (ids.empty()) throw InvalidArgument("prompt: expected text, got none");
  return ids;
}

std::string result_json(const runtime::GenerateResult& result, const std::string& text, uint64_t seed) {
  const nlohmann::ordered_json json = {{"text", text},
                                       {"finish", name_of(result.finish)},
                                       {"tokens", result.tokens},
                                       {"seed", seed},
                                       {"prompt_tokens", result.prompt_tokens},
                                       {"prompt_seconds", result.prompt_seconds},
                                       {"prompt_tokens_per_second", prompt_rate(result)},
                                       {"decode_seconds", result.decode_seconds},
                                       {"decode_tokens_per_second", decode_rate(result)}};
  return json.dump() + "\n";
}

// What --json-schema or --json-object ask for.
std::optional<runtime::Grammar> grammar(const GenerateArgs& args) {
  if (args.json_object) return runtime::json_object_grammar();
  if (!args.json_schema) return std::nullopt;
  const std::string schema = formats::read_text_file(*args.json_schema, runtime::kMaxSchemaBytes);
  return runtime::json_schema_grammar(schema, args.json_schema->string());
}

// Where a limit, not the model, decided how JSON ends.
void note_limited_json(runtime::Finish finish) {
  using runtime::Finish;
  if (finish == Finish::closed) note("the JSON is complete, but the limit on tokens made the model close it early");
  else if (finish != Finish::complete && finish != Finish::end_token)
    note(cat("the JSON is not complete: ", name_of(finish)));
}

}  // namespace

int run_generate(const GenerateArgs& args) {
  const formats::Tokenizer tokenizer = formats::Tokenizer::load(args.engine.model);
  const std::vector<int32_t> prompt = prompt_tokens(args, tokenizer);
  std::optional<runtime::Grammar> json = grammar(args);
  const auto engine = open_engine(args.engine);
  runtime::GenerateOptions options = generate_options(args.sampling, args.engine.model, engine->config(), tokenizer);
  if (json)
    options.constraint.emplace(*std::move(json),
                               std::make_shared<runtime::TokenTrie>(tokenizer, engine->config().vocab_size),
                               options.end_ids);

  const Interrupt interrupt;
  ProgressLine progress("prompt", "tokens");
  std::string text;
  const auto sink = [&](std::string_view part) {
    progress.erase();
    text += part;
    if (!args.json) print(part);
    return !interrupt.raised();
  };
  const auto during_prompt = [&](int64_t done, int64_t total) {
    progress.update(done, total);
    return !interrupt.raised();
  };
  if (static_cast<int64_t>(prompt.size()) > engine->tokens_per_pass())
    progress.show(0, static_cast<int64_t>(prompt.size()));
  runtime::StateSlot slot = engine->new_slot();
  runtime::GenerateResult result;
  try {
    result = runtime::generate(*engine, slot, tokenizer, {}, prompt, options, sink, during_prompt);
  } catch (const InternalError&) {  // a logit that is no number
    blame_weights(*engine);
    throw;
  }
  progress.erase();
  if (args.json) print(result_json(result, text, options.sampling.seed));
  else if (stdout_is_terminal() && !text.empty() && text.back() != '\n') print("\n");
  if (options.constraint) note_limited_json(result.finish);
  if (!args.quiet) note(timing_line(result, options.sampling));
  return result.finish == runtime::Finish::cancelled ? kInterruptedStatus : 0;
}

}  // namespace linnet::cli
