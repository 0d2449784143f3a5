// Sampler: from logits to the next token. Same parameters, seed and logits: same token, on every machine with the same libm.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/rng.h"

namespace linnet::runtime {

struct SamplingParams {
  float temperature = 1;  // 0: greedy, the largest logit (lowest id on a tie)
  int64_t top_k = 0;      // keep the k most probable tokens; 0: all
  float top_p = 1;        // then the smallest set of most probable tokens whose mass reaches top_p
  float min_p = 0;        // then those at least min_p times as probable as the best
  float repetition_penalty =
      1;  // seen tokens: positive logits divided by it, negative multiplied (CTRL, arXiv:1909.05858)
  float presence_penalty = 0;   // seen tokens: logit minus this
  float frequency_penalty = 0;  // seen tokens: logit minus this times how often
  int64_t penalty_window = 0;   // how many of the latest tokens count as seen; 0: all
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;  // added first; -inf forbids a token

  // Throws InvalidArgument naming the field, its range and its value.
  void check(int64_t vocab_size) const;
};

class Sampler {
 public:
  // Ids >= n_emittable are never chosen (embedding rows that the tokenizer has no text for).
  Sampler(SamplingParams params, int64_t vocab_size, int64_t n_emittable);

  // A token that stands in the sequence: prompt or generated. Counts for the penalties.
  void observe(int32_t token);
  // Chooses the next token (without observing it). `logits` [V] is overwritten. Throws InvalidArgument when every token is forbidden,
  // InternalError when a logit is NaN.
  int32_t sample(std::span<float> logits);

 private:
  bool penalises() const {
    return params_.repetition_penalty != 1 || params_.presence_penalty != 0 || params_.frequency_penalty != 0;
  }
  void penalise(std::span<float> logits) const;
  int32_t draw(std::span<const float> logits, float max);
  int32_t draw_of_all(std::span<const float> weights);
  int32_t draw_of_best(std::span<const float> weights);

  SamplingParams params_;
  int64_t n_emittable_;
  Rng rng_;
  std::vector<int32_t> seen_;   // in order; neither this nor the next is kept when nothing is penalised
  std::vector<int32_t> count_;  // [V] within the window
};

}  // namespace linnet::runtime
