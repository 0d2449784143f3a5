#include "runtime/score.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::runtime {
namespace {

struct Window {
  int64_t begin, end;  // tokens of the document
  int64_t first;       // the first one to score
};

std::vector<Window> windows_of(int64_t n_tokens, int64_t window, int64_t stride) {
  std::vector<Window> windows;
  int64_t scored_to = 0;
  for (int64_t begin = 0; scored_to < n_tokens; begin += stride) {
    const int64_t end = std::min(begin + window, n_tokens);
    windows.push_back({begin, end, std::max(scored_to, begin + 1)});
    scored_to = end;
  }
  return windows;
}

ScoreOptions checked(ScoreOptions options, const Engine& engine, size_t n_tokens) {
  if (options.window == 0) options.window = engine.context();
  if (options.stride == 0) options.stride = options.window;
  if (options.window < 2 || options.window > engine.context())
    throw InvalidArgument(cat("score: window: expected 2 to ", engine.context(), " tokens, got ", options.window));
  if (options.stride < 1 || options.stride > options.window)
    throw InvalidArgument(cat("score: stride: expected 1 to ", options.window, " tokens, got ", options.stride));
  if (n_tokens < 2) throw InvalidArgument(cat("score: expected at least 2 tokens, got ", n_tokens));
  return options;
}

}  // namespace

void Score::add(int64_t n_before, double nll) {
  const int bucket = (std::bit_width(static_cast<uint64_t>(n_before)) - 1) / 2;
  for (Sum* sum : {&all, &by_position[static_cast<size_t>(bucket)]}) ++sum->tokens, sum->nll += nll;
}

void Score::add(const Score& other) {
  const auto add_sum = [](Sum& to, const Sum& from) { to.tokens += from.tokens, to.nll += from.nll; };
  add_sum(all, other.all);
  for (size_t b = 0; b < by_position.size(); ++b) add_sum(by_position[b], other.by_position[b]);
}

double negative_log_probability(std::span<const float> logits, int32_t token) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float x : logits) sum += static_cast<double>(std::exp(x - max));
  return std::log(sum) + static_cast<double>(max) - static_cast<double>(logits[static_cast<size_t>(token)]);
}

Score score_document(Engine& engine, std::span<const int32_t> tokens, const ScoreOptions& given, const ScoreSink& each,
                     const Progress& progress) {
  const ScoreOptions options = checked(given, engine, tokens.size());
  const std::vector<Window> windows = windows_of(static_cast<int64_t>(tokens.size()), options.window, options.stride);
  int64_t total = 0, read = 0;
  for (const Window& w : windows) total += w.end - w.begin;

  Score score;
  std::vector<double> nll;
  StateSlot slot = engine.new_slot();
  for (const Window& w : windows) {
    slot.reset();
    const auto length = static_cast<size_t>(w.end - w.begin);
    const Append request{.slot = &slot,
                         .tokens = tokens.subspan(static_cast<size_t>(w.begin), length),
                         .want = Want::all,
                         .step = model::Step::prefill};  // a prompt's
    // Row i holds the logits after token first + i of the window: they predict the one after it.
    const auto sink = [&](size_t, int64_t first, Tensor rows) {
      nll.assign(static_cast<size_t>(rows[0]), 0);
      engine.pool().parallel_for(rows[0], 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t next = w.begin + first + i + 1;
          if (next < w.first || next >= w.end) continue;
          nll[static_cast<size_t>(i)] = negative_log_probability({rows.row<float>(i), static_cast<size_t>(rows[1])},
                                                                 tokens[static_cast<size_t>(next)]);
        }
      });
      for (int64_t i = 0; i < rows[0]; ++i) {
        const int64_t next = w.begin + first + i + 1;
        if (next < w.first || next >= w.end) continue;
        score.add(next - w.begin, nll[static_cast<size_t>(i)]);
        if (each) each(next, nll[static_cast<size_t>(i)]);
      }
    };
    const bool go_on = engine.append({&request, 1}, sink,
                                     [&](int64_t done, int64_t) { return !progress || progress(read + done, total); });
    if (!go_on) break;
    read += w.end - w.begin;
  }
  return score;
}

}  // namespace linnet::runtime
