#include "runtime/generator.h"

#include <chrono>
#include <cstring>

#include "core/errors.h"

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

}  // namespace

GenerateResult generate(Engine& engine, StateSlot& slot, const formats::Tokenizer& tokenizer,
                        std::span<const int32_t> history, std::span<const int32_t> prompt,
                        const GenerateOptions& options, const TextSink& sink, const Progress& prefill_progress) {
  if (prompt.empty()) throw InvalidArgument("prompt: expected at least one token, got none");
  GenerateResult result{.finish = Finish::cancelled, .prompt_tokens = static_cast<int64_t>(prompt.size())};
  Continuation said(options, tokenizer, engine.config().vocab_size, engine.context());
  said.observe(history);
  said.observe(prompt);

  std::vector<float> logits;
  auto start = std::chrono::steady_clock::now();
  const bool done = append_for_logits(engine, slot, prompt, model::Step::prefill, logits, prefill_progress);
  result.prompt_seconds = seconds_since(start);
  if (!done) return result;

  start = std::chrono::steady_clock::now();
  const auto emit = [&](const std::string& text) { return !sink || sink(text); };
  bool open = true;  // false once the sink has said stop
  while (!said.finish()) {
    const Continuation::Step step = said.draw(logits, slot.n_tokens());
    result.tokens.push_back(step.token);
    if (!step.is_end) open = emit(step.text);
    if (!open) said.cut(Finish::cancelled);
    if (!said.finish()) append_for_logits(engine, slot, {&step.token, 1}, model::Step::decode, logits, nullptr);
  }
  if (open && said.finish() != Finish::stop_string) open = emit(said.rest());
  result.finish = open ? *said.finish() : Finish::cancelled;
  result.decode_seconds = seconds_since(start);
  return result;
}

}  // namespace linnet::runtime
