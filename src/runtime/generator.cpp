#include "runtime/generator.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::runtime {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Appends tokens and copies the logits after the last one. Returns false when progress stopped it.
bool append_for_logits(Engine& engine, StateSlot& slot, std::span<const int32_t> tokens, model::Step step,
                       std::vector<float>& logits, const Progress& progress) {
  const Append request{.slot = &slot, .tokens = tokens, .want = Want::last, .step = step};
  return engine.append(
      {&request, 1},
      [&](size_t, int64_t, Tensor row) {
        logits.resize(static_cast<size_t>(row[1]));
        std::memcpy(logits.data(), row.data, static_cast<size_t>(row.bytes()));
      },
      progress);
}

// The constraint of one generation, if there is one: forbids tokens in the logits, and knows when the text is complete.
class Guard {
 public:
  explicit Guard(const std::optional<Constraint>& constraint) : constraint_(constraint) {
    if (constraint_) bits_.resize(constraint_->n_words());
  }

  // `tokens_left`: how many may come behind the next one; each can be a byte at least.
  void forbid(std::span<float> logits, int64_t tokens_left) {
    if (!constraint_) return;
    limited_ |= constraint_->mask(bits_, tokens_left);
    for (size_t id = 0; id < logits.size(); ++id) {
      const bool allowed = id / 64 < bits_.size() && (bits_[id / 64] >> (id % 64) & 1);
      if (!allowed && !std::isnan(logits[id])) logits[id] = -INFINITY;  // a NaN is still the sampler's to report
    }
  }
  void accept(int32_t token) {
    if (constraint_) constraint_->accept(token);
  }
  bool may_end() const { return constraint_ && constraint_->may_end(); }
  bool must_end() const { return constraint_ && constraint_->must_end(); }
  Finish when_complete() const { return limited_ ? Finish::closed : Finish::complete; }

 private:
  std::optional<Constraint> constraint_;
  std::vector<uint64_t> bits_;
  bool limited_ = false;
};

}  // namespace

const char* name_of(Finish finish) {
  switch (finish) {
    case Finish::end_token: return "end token";
    case Finish::stop_string: return "stop string";
    case Finish::max_tokens: return "token limit";
    case Finish::context_full: return "context full";
    case Finish::cancelled: return "cancelled";
    case Finish::complete: return "complete";
    case Finish::closed: return "closed by the limit";
  }
  return "?";
}

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_)
    if (stop.empty()) throw InvalidArgument("stop string: expected text, got an empty one");
}

std::string StopMatcher::push(std::string_view text) {
  if (stopped_) return {};
  held_ += text;
  size_t cut = std::string::npos;
  for (const std::string& stop : stops_) cut = std::min(cut, held_.find(stop));
  if (cut != std::string::npos) {
    stopped_ = true;
    held_.resize(cut);
    return std::exchange(held_, {});
  }
  // Keep the longest end of the text that begins some stop string.
  size_t keep = 0;
  for (const std::string& stop : stops_)
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n)
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) keep = n;
  std::string certain = held_.substr(0, held_.size() - keep);
  held_.erase(0, certain.size());
  return certain;
}

std::string StopMatcher::flush() { return std::exchange(held_, {}); }

GenerateResult generate(Engine& engine, StateSlot& slot, const formats::Tokenizer& tokenizer,
                        std::span<const int32_t> history, std::span<const int32_t> prompt,
                        const GenerateOptions& options, const TextSink& sink, const Progress& prefill_progress) {
  if (prompt.empty()) throw InvalidArgument("prompt: expected at least one token, got none");
  GenerateResult result{.finish = Finish::max_tokens, .prompt_tokens = static_cast<int64_t>(prompt.size())};
  Sampler sampler(options.sampling, engine.config().vocab_size, tokenizer.vocab_size());
  for (int32_t id : history) sampler.observe(id);
  for (int32_t id : prompt) sampler.observe(id);

  std::vector<float> logits;
  auto start = std::chrono::steady_clock::now();
  const bool done = append_for_logits(engine, slot, prompt, model::Step::prefill, logits, prefill_progress);
  result.prompt_seconds = seconds_since(start);
  if (!done) {
    result.finish = Finish::cancelled;
    return result;
  }

  start = std::chrono::steady_clock::now();
  formats::StreamDecoder decoder(tokenizer,
                                 options.show_specials ? formats::SpecialText::shown : formats::SpecialText::hidden);
  StopMatcher matcher(options.stop_strings);
  const auto emit = [&](const std::string& text) { return !sink || sink(text); };
  bool open = true;  // false once the sink has said stop
  Guard guard(options.constraint);
  while (options.max_tokens != 0) {
    const auto n = static_cast<int64_t>(result.tokens.size()) + 1;  // with the token that comes
    const int64_t fits = engine.context() - slot.n_tokens();        // more of them, and the last need not be read
    guard.forbid(logits, options.max_tokens < 0 ? fits : std::min(fits, options.max_tokens - n));
    const int32_t token = sampler.sample(logits);
    sampler.observe(token);
    result.tokens.push_back(token);
    guard.accept(token);
    const bool ends = std::find(options.end_ids.begin(), options.end_ids.end(), token) != options.end_ids.end();
    if (!ends) open = emit(matcher.push(decoder.push(token)));
    if (ends || matcher.stopped() || guard.must_end()) {
      result.finish = matcher.stopped() ? Finish::stop_string : ends ? Finish::end_token : guard.when_complete();
      break;
    }
    if (!open || n == options.max_tokens || fits == 0) {
      if (n != options.max_tokens && fits == 0) result.finish = Finish::context_full;
      if (guard.may_end()) result.finish = Finish::closed;
      break;
    }
    append_for_logits(engine, slot, {&token, 1}, model::Step::decode, logits, nullptr);
  }
  if (open && !matcher.stopped()) open = emit(matcher.push(decoder.flush()) + matcher.flush());
  if (!open) result.finish = Finish::cancelled;
  result.decode_seconds = seconds_since(start);
  return result;
}

}  // namespace linnet::runtime
