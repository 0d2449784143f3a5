// How a reply is drawn and where it ends: options of generate and chat, over what generation_config.json says.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "formats/tokenizer.h"
#include "model/config.h"
#include "runtime/generator.h"

namespace linnet::cli {

struct SamplingArgs {
  std::optional<int64_t> max_tokens;
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
  float presence_penalty = 0, frequency_penalty = 0;
  int64_t penalty_window = 0;
  std::optional<uint64_t> seed;  // none: a fresh one
  bool greedy = false;
  std::vector<std::string> stops;
  std::vector<std::string> logit_bias;  // "ID=VALUE"
  bool ignore_eos = false, show_specials = false;
};

// Throws InvalidArgument for a value out of range, FormatError for a bad generation_config.json in `dir`.
runtime::GenerateOptions generate_options(const SamplingArgs& args, const std::filesystem::path& dir,
                                          const model::ModelConfig& config, const formats::Tokenizer& tokenizer);

// "prompt 12 tokens 0.050 s 240.0/s, reply 32 tokens 0.400 s 77.5/s, token limit, seed 7"
std::string timing_line(const runtime::GenerateResult& result, const runtime::SamplingParams& sampling);

// Tokens for each second; the first token of a reply comes from the prompt's pass and costs no step.
double prompt_rate(const runtime::GenerateResult& result);
double decode_rate(const runtime::GenerateResult& result);

}  // namespace linnet::cli
