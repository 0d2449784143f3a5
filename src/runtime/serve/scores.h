// Scores: log-probabilities of tokens under the model, from raw logits, before any sampling parameter.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace linnet::runtime {

struct TokenScore {  // a token and its natural-log probability
  int32_t id = 0;
  float logprob = 0;
};
struct ScoredToken : TokenScore {
  std::vector<TokenScore> top;  // the most probable in its place, descending, the lower id first where equal
};

// ln sum exp(logits), in double: no logit overflows or vanishes against the largest. Throws InternalError for a NaN.
double log_sum_exp(std::span<const float> logits);

// The token's score and the `n_top` (0: none) most probable ones.
ScoredToken score_token(std::span<const float> logits, int32_t token, int64_t n_top);

}  // namespace linnet::runtime
