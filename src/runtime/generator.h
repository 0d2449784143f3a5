// Generator: prompt in, text out as it comes, of one sequence; stops at end tokens, stop strings, the token limit or when told to.
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/continuation.h"
#include "runtime/engine.h"

namespace linnet::runtime {

struct GenerateResult {
  Finish finish;
  std::vector<int32_t> tokens;  // generated, an end token included
  int64_t prompt_tokens = 0;
  double prompt_seconds = 0, decode_seconds = 0;  // decode: all steps after the first token was known
};

// Receives text as soon as it is certain (complete characters that cannot belong to a stop string); false cancels. Called once for
// each token but an end token, with empty text while nothing new is certain, and once more at the end.
using TextSink = std::function<bool(std::string_view text)>;

// Appends `prompt` to the slot and samples on from there. Afterwards the slot holds the prompt and result.tokens without their last
// (which nothing needed yet): to go on, begin the next prompt with that token.
// `history`: tokens already in the slot, for the penalties. Throws what Engine::append and Sampler throw; InvalidArgument for an
// empty prompt on an empty slot.
GenerateResult generate(Engine& engine, StateSlot& slot, const formats::Tokenizer& tokenizer,
                        std::span<const int32_t> history, std::span<const int32_t> prompt,
                        const GenerateOptions& options, const TextSink& sink,
                        const Progress& prefill_progress = nullptr);

}  // namespace linnet::runtime
