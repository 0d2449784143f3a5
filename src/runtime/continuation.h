// Continuation: what is said after a prompt, token by token: from logits to the next token, to text, to an end. The rules stand
// here alone; who runs the model for it is another question (generate() for one sequence, Scheduler for many).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "formats/tokenizer.h"
#include "runtime/constraint/constraint.h"
#include "runtime/sampler.h"
#include "runtime/stop_matcher.h"

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
//   cancelled     by whoever reads the text; timed_out: by a deadline
enum class Finish : uint8_t {
  end_token,
  stop_string,
  max_tokens,
  context_full,
  cancelled,
  complete,
  closed,
  timed_out,
};
const char* name_of(Finish finish);

class Continuation {
 public:
  // The tokenizer must outlive it. Throws InvalidArgument for options that no text can follow.
  Continuation(const GenerateOptions& options, const formats::Tokenizer& tokenizer, int64_t vocab_size,
               int64_t context);

  void observe(std::span<const int32_t> tokens);  // that stand before it, for the penalties

  struct Step {
    int32_t token;
    bool is_end;  // an end token: not part of the text
    std::string
        text;  // that is now certain: complete characters that cannot belong to a stop string, and the constraint's terminals
  };
  // Draws the next token from `logits` [V], which are overwritten. `n_held`: tokens in the state that they came from. Only while
  // there is no finish(). Throws what Sampler::sample throws.
  Step draw(std::span<float> logits, int64_t n_held);

  const std::optional<Finish>& finish() const { return finish_; }
  void cut(Finish finish) { finish_ = finish; }  // from outside: cancelled, timed out
  std::string rest();                            // the text that was held back, at the end
  int64_t n_drawn() const { return n_drawn_; }

 private:
  void forbid(std::span<float> logits, int64_t tokens_left);

  std::vector<int32_t> end_ids_;
  int64_t max_tokens_, context_;
  Sampler sampler_;
  formats::StreamDecoder decoder_;
  StopMatcher matcher_;
  std::optional<Constraint> constraint_;
  std::vector<uint64_t> allowed_;  // by the constraint, a bit an id
  bool limited_ = false;           // the limits have excluded tokens that the constraint allows
  int64_t n_drawn_ = 0;
  std::optional<Finish> finish_;
};

}  // namespace linnet::runtime
