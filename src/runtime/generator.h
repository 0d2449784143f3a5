// Generator: prompt in, text out as it comes; stops at end tokens, stop strings, the token limit or when told to.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer.h"
#include "runtime/constraint/constraint.h"
#include "runtime/engine.h"
#include "runtime/sampler.h"

namespace linnet::runtime {

struct GenerateOptions {
  SamplingParams sampling;
  int64_t max_tokens = -1;                // new tokens; -1: until an end token or the end of the context
  std::vector<int32_t> end_ids;           // generation ends with these; they are not part of the text
  std::vector<std::string> stop_strings;  // generation ends before these; they are not part of the text
  bool show_specials = false;             // write the names of special tokens into the text
  // What the text must follow, made with end_ids; generation begins with a copy. The text is then complete when it ends, unless
  // even the shortest one does not fit the limits, or something else cuts it.
  std::optional<Constraint> constraint;
};

//   complete      the constraint's text is complete and nothing may follow
//   closed        complete, too, but the token limit or the context's end chose among the tokens so that it would be
enum class Finish : uint8_t { end_token, stop_string, max_tokens, context_full, cancelled, complete, closed };
const char* name_of(Finish finish);

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

// Holds back text that may be the beginning of a stop string.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);
  // Text that is now certain. After a stop string has been found, stopped() is true and nothing more comes.
  std::string push(std::string_view text);
  std::string flush();  // the end: what was held back
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace linnet::runtime
