#include "cli/generate.h"

#include <nlohmann/json.hpp>

#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "core/errors.h"
#include "core/text.h"

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

}  // namespace

int run_generate(const GenerateArgs& args) {
  const formats::Tokenizer tokenizer = formats::Tokenizer::load(args.engine.model);
  const std::vector<int32_t> prompt = prompt_tokens(args, tokenizer);
  const auto engine = open_engine(args.engine);
  const runtime::GenerateOptions options =
      generate_options(args.sampling, args.engine.model, engine->config(), tokenizer);

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
  if (!args.quiet) note(timing_line(result, options.sampling));
  return result.finish == runtime::Finish::cancelled ? kInterruptedStatus : 0;
}

}  // namespace linnet::cli
