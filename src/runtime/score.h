// Scoring: how well a model predicts given tokens. Log-probabilities come from the logits as they pass by; they are never all stored.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "runtime/engine.h"

namespace linnet::runtime {

// A document longer than `window` tokens is read in windows that begin every `stride` tokens, each from an empty state. A token is
// scored once, in the first window that holds it; the first token of the document, and with stride == window of every window, has
// nothing before it and is not scored. The kernels are those that read prompts of a server, which scores them alike.
struct ScoreOptions {
  int64_t window = 0;  // 0: the engine's context
  int64_t stride = 0;  // 0: window
};

// Sums over scored tokens.
struct Score {
  static constexpr int kBuckets = 24;
  struct Sum {
    int64_t tokens = 0;
    double nll = 0;  // negative log-probability, natural log
    double mean() const { return tokens > 0 ? nll / static_cast<double>(tokens) : 0; }
  };
  Sum all;
  std::array<Sum, kBuckets> by_position;  // bucket b: tokens with [4^b, 4^(b+1)) tokens before them in their window

  void add(int64_t n_before, double nll);
  void add(const Score& other);
  static int64_t bucket_begin(int bucket) { return int64_t{1} << 2 * bucket; }
};

// Told of each token as it is scored; used to sum what depends on the token itself. May be empty.
using ScoreSink = std::function<void(int64_t index, double nll)>;

// Throws InvalidArgument for a window beyond the engine's context, a stride outside [1, window], fewer than two tokens; FormatError never.
// Progress counts tokens read, all windows together; when it says stop, the score of what was read comes back.
Score score_document(Engine& engine, std::span<const int32_t> tokens, const ScoreOptions& options,
                     const ScoreSink& each = nullptr, const Progress& progress = nullptr);

// -log softmax(logits)[token], in double.
double negative_log_probability(std::span<const float> logits, int32_t token);

}  // namespace linnet::runtime
