#include "runtime/continuation.h"

#include <algorithm>
#include <cmath>

namespace linnet::runtime {

const char* name_of(Finish finish) {
  switch (finish) {
    case Finish::end_token: return "end token";
    case Finish::stop_string: return "stop string";
    case Finish::max_tokens: return "token limit";
    case Finish::context_full: return "context full";
    case Finish::cancelled: return "cancelled";
    case Finish::complete: return "complete";
    case Finish::closed: return "closed by the limit";
    case Finish::timed_out: return "timed out";
  }
  return "?";
}

Continuation::Continuation(const GenerateOptions& options, const formats::Tokenizer& tokenizer, int64_t vocab_size,
                           int64_t context)
    : end_ids_(options.end_ids),
      max_tokens_(options.max_tokens),
      context_(context),
      sampler_(options.sampling, vocab_size, tokenizer.vocab_size()),
      decoder_(tokenizer, options.show_specials ? formats::SpecialText::shown : formats::SpecialText::hidden),
      matcher_(options.stop_strings),
      constraint_(options.constraint) {
  if (constraint_) allowed_.resize(constraint_->n_words());
  if (max_tokens_ == 0) finish_ = Finish::max_tokens;
}

void Continuation::observe(std::span<const int32_t> tokens) {
  for (int32_t id : tokens) sampler_.observe(id);
}

// `tokens_left`: how many may come behind the next one; each can be a byte at least.
void Continuation::forbid(std::span<float> logits, int64_t tokens_left) {
  if (!constraint_) return;
  limited_ |= constraint_->mask(allowed_, tokens_left);
  for (size_t id = 0; id < logits.size(); ++id) {
    const bool allowed = id / 64 < allowed_.size() && (allowed_[id / 64] >> (id % 64) & 1);
    if (!allowed && !std::isnan(logits[id])) logits[id] = -INFINITY;  // a NaN is still the sampler's to report
  }
}

Continuation::Step Continuation::draw(std::span<float> logits, int64_t n_held) {
  const int64_t n = n_drawn_ + 1;          // with the token that comes
  const int64_t fits = context_ - n_held;  // more of them, and the last need not be read
  forbid(logits, max_tokens_ < 0 ? fits : std::min(fits, max_tokens_ - n));
  Step step{.token = sampler_.sample(logits)};
  sampler_.observe(step.token);
  if (constraint_) constraint_->accept(step.token);
  n_drawn_ = n;
  step.is_end = std::find(end_ids_.begin(), end_ids_.end(), step.token) != end_ids_.end();
  if (const auto mark = constraint_ ? constraint_->terminal(step.token) : std::nullopt)
    step.text = matcher_.push(decoder_.flush() + static_cast<char>(*mark));
  else if (!step.is_end) step.text = matcher_.push(decoder_.push(step.token));
  const bool complete = constraint_ && constraint_->may_end();
  if (matcher_.stopped()) finish_ = Finish::stop_string;
  else if (step.is_end) finish_ = Finish::end_token;
  else if (constraint_ && constraint_->must_end()) finish_ = limited_ ? Finish::closed : Finish::complete;
  else if (n == max_tokens_) finish_ = complete ? Finish::closed : Finish::max_tokens;
  else if (fits == 0) finish_ = complete ? Finish::closed : Finish::context_full;
  return step;
}

std::string Continuation::rest() {
  if (matcher_.stopped()) return {};
  std::string text = matcher_.push(decoder_.flush());
  return text += matcher_.flush();
}

}  // namespace linnet::runtime
