#include "cli/sampling_args.h"

#include <cstdio>
#include <cstdlib>
#include <random>

#include "core/errors.h"
#include "core/text.h"
#include "formats/generation_config.h"

namespace linnet::cli {
namespace {

std::pair<int32_t, float> parse_bias(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals != std::string::npos && equals > 0 && equals + 1 < text.size()) {
    char *id_end = nullptr, *value_end = nullptr;
    const long id = std::strtol(text.c_str(), &id_end, 10);
    const float value = std::strtof(text.c_str() + equals + 1, &value_end);
    if (*id_end == '=' && *value_end == '\0' && id >= 0 && id <= INT32_MAX) return {static_cast<int32_t>(id), value};
  }
  throw InvalidArgument(cat("--logit-bias: expected ID=VALUE, as 42=-1.5 or 42=-inf, got ", printable(text, 60)));
}

float or_suggested(std::optional<float> given, std::optional<double> suggested, float otherwise) {
  return given ? *given : suggested ? static_cast<float>(*suggested) : otherwise;
}

uint64_t fresh_seed() { return std::random_device()(); }

void add_end_ids(const auto& ids, std::vector<int32_t>& to) {
  for (auto id : ids)
    if (std::find(to.begin(), to.end(), static_cast<int32_t>(id)) == to.end()) to.push_back(static_cast<int32_t>(id));
}

double rate(int64_t n, double seconds) { return n > 0 && seconds > 0 ? static_cast<double>(n) / seconds : 0; }

}  // namespace

runtime::GenerateOptions generate_options(const SamplingArgs& args, const std::filesystem::path& dir,
                                          const model::ModelConfig& config, const formats::Tokenizer& tokenizer) {
  const formats::GenerationConfig suggested = formats::GenerationConfig::load(dir);
  runtime::GenerateOptions options{.max_tokens = args.max_tokens.value_or(suggested.max_new_tokens.value_or(-1)),
                                   .stop_strings = args.stops,
                                   .show_specials = args.show_specials};
  if (options.max_tokens < -1)
    throw InvalidArgument(cat("--max-tokens: expected -1 (no limit) or more, got ", options.max_tokens));
  runtime::SamplingParams& sampling = options.sampling;
  const float temperature = suggested.do_sample.value_or(true) ? or_suggested({}, suggested.temperature, 1) : 0;
  sampling.temperature = args.greedy ? 0 : args.temperature.value_or(temperature);
  sampling.top_k = args.top_k.value_or(suggested.top_k.value_or(0));
  sampling.top_p = or_suggested(args.top_p, suggested.top_p, 1);
  sampling.min_p = or_suggested(args.min_p, suggested.min_p, 0);
  sampling.repetition_penalty = or_suggested(args.repetition_penalty, suggested.repetition_penalty, 1);
  sampling.presence_penalty = args.presence_penalty;
  sampling.frequency_penalty = args.frequency_penalty;
  sampling.penalty_window = args.penalty_window;
  sampling.seed = args.seed ? *args.seed : sampling.temperature > 0 ? fresh_seed() : 0;
  for (const std::string& text : args.logit_bias) sampling.logit_bias.push_back(parse_bias(text));
  sampling.check(config.vocab_size);
  if (args.ignore_eos) return options;
  add_end_ids(suggested.eos_ids, options.end_ids);
  add_end_ids(config.eos_ids, options.end_ids);
  add_end_ids(tokenizer.stop_ids(), options.end_ids);
  return options;
}

double prompt_rate(const runtime::GenerateResult& r) { return rate(r.prompt_tokens, r.prompt_seconds); }

double decode_rate(const runtime::GenerateResult& r) {
  return rate(static_cast<int64_t>(r.tokens.size()) - 1, r.decode_seconds);
}

std::string timing_line(const runtime::GenerateResult& r, const runtime::SamplingParams& sampling) {
  char text[160];
  std::snprintf(text, sizeof text, "prompt %lld tokens %.3f s %.1f/s, reply %zu tokens %.3f s %.1f/s, %s",
                static_cast<long long>(r.prompt_tokens), r.prompt_seconds, prompt_rate(r), r.tokens.size(),
                r.decode_seconds, decode_rate(r), name_of(r.finish));
  return sampling.temperature > 0 ? cat(text, ", seed ", sampling.seed) : text;
}

}  // namespace linnet::cli
