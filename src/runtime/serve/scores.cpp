#include "runtime/serve/scores.h"

#include <algorithm>
#include <cmath>

#include "core/errors.h"
#include "runtime/exponentials.h"

namespace linnet::runtime {

double log_sum_exp(std::span<const float> logits) {
  const float max = largest_of(logits);
  if (std::isnan(max)) throw InternalError("scores: a logit is NaN");
  if (std::isinf(max)) return static_cast<double>(max);
  static thread_local std::vector<float> scratch;  // as large as the vocabulary
  scratch.resize(std::max(scratch.size(), logits.size()));
  const std::span<float> terms = std::span(scratch).first(logits.size());
  exp_below(logits, max, 1, terms);
  return std::log(sum_of(terms)) + static_cast<double>(max);
}

ScoredToken score_token(std::span<const float> logits, int32_t token, int64_t n_top) {
  const double lse = log_sum_exp(logits);
  const auto score = [&](int32_t id) {
    return TokenScore{id, static_cast<float>(static_cast<double>(logits[static_cast<size_t>(id)]) - lse)};
  };
  ScoredToken out{score(token), {}};
  if (n_top <= 0) return out;
  // One pass, keeping the best so far in order: most logits are below the worst of them.
  std::vector<int32_t> best;
  const auto n = static_cast<size_t>(std::min<int64_t>(n_top, static_cast<int64_t>(logits.size())));
  for (size_t id = 0; id < logits.size(); ++id) {
    if (best.size() == n && !(logits[id] > logits[static_cast<size_t>(best.back())])) continue;
    if (best.size() == n) best.pop_back();
    const auto at = std::find_if(best.begin(), best.end(),
                                 [&](int32_t other) { return logits[id] > logits[static_cast<size_t>(other)]; });
    best.insert(at, static_cast<int32_t>(id));
  }
  for (int32_t id : best) out.top.push_back(score(id));
  return out;
}

}  // namespace linnet::runtime
