#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>

#include "core/errors.h"
#include "core/text.h"
#include "runtime/exponentials.h"

namespace linnet::runtime {
namespace {

void require(bool ok, const char* field, const char* expected, double got) {
  if (!ok) throw InvalidArgument(cat("sampling: ", field, ": expected ", expected, ", got ", got));
}

}  // namespace

void SamplingParams::check(int64_t vocab_size) const {
  require(temperature >= 0 && temperature <= 100, "temperature", "a number in [0, 100]", temperature);
  require(top_k >= 0, "top_k", "0 (off) or more", static_cast<double>(top_k));
  require(top_p > 0 && top_p <= 1, "top_p", "a number in (0, 1]", top_p);
  require(min_p >= 0 && min_p <= 1, "min_p", "a number in [0, 1]", min_p);
  require(repetition_penalty > 0 && repetition_penalty <= 100, "repetition_penalty", "a number in (0, 100]",
          repetition_penalty);
  require(std::abs(presence_penalty) <= 100, "presence_penalty", "a number in [-100, 100]", presence_penalty);
  require(std::abs(frequency_penalty) <= 100, "frequency_penalty", "a number in [-100, 100]", frequency_penalty);
  require(penalty_window >= 0, "penalty_window", "0 (all) or more", static_cast<double>(penalty_window));
  for (const auto& [id, bias] : logit_bias) {
    require(id >= 0 && id < vocab_size, "logit_bias", cat("a token id in [0, ", vocab_size, ")").c_str(), id);
    require(!std::isnan(bias) && bias != INFINITY, "logit_bias", "a number or -inf", bias);
  }
}

Sampler::Sampler(SamplingParams params, int64_t vocab_size, int64_t n_emittable)
    : params_(std::move(params)), n_emittable_(std::min(n_emittable, vocab_size)), rng_(params_.seed) {
  params_.check(vocab_size);
  if (penalises()) count_.resize(static_cast<size_t>(vocab_size));
}

void Sampler::observe(int32_t token) {
  if (!penalises()) return;
  seen_.push_back(token);
  ++count_[static_cast<size_t>(token)];
  if (params_.penalty_window > 0 && static_cast<int64_t>(seen_.size()) > params_.penalty_window)
    --count_[static_cast<size_t>(seen_[seen_.size() - 1 - static_cast<size_t>(params_.penalty_window)])];
}

void Sampler::penalise(std::span<float> logits) const {
  for (const auto& [id, bias] : params_.logit_bias) logits[static_cast<size_t>(id)] += bias;
  if (!penalises()) return;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (count_[id] == 0) continue;
    float& x = logits[id];
    x = x > 0 ? x / params_.repetition_penalty : x * params_.repetition_penalty;
    x -= params_.presence_penalty + params_.frequency_penalty * static_cast<float>(count_[id]);
  }
}

int32_t Sampler::sample(std::span<float> logits) {
  penalise(logits);
  logits = logits.first(static_cast<size_t>(n_emittable_));
  const float max = largest_of(logits);
  if (std::isnan(max)) {
    const auto at = std::find_if(logits.begin(), logits.end(), [](float x) { return std::isnan(x); });
    throw InternalError(cat("sampling: the logit of token ", at - logits.begin(), " is NaN"));
  }
  if (max == -INFINITY) throw InvalidArgument("sampling: every token is forbidden, by logit_bias or a constraint");
  if (params_.temperature == 0)
    return static_cast<int32_t>(std::find(logits.begin(), logits.end(), max) - logits.begin());
  return draw(logits, max);
}

// Weights are exp((logit - max) / temperature): the best token weighs 1, so min_p compares with 1 directly.
int32_t Sampler::draw(std::span<const float> logits, float max) {
  static thread_local std::vector<float> scratch;  // as large as the vocabulary
  scratch.resize(std::max(scratch.size(), logits.size()));
  const std::span<float> weights = std::span(scratch).first(logits.size());
  if (max == INFINITY)
    std::transform(logits.begin(), logits.end(), weights.begin(), [](float x) { return x == INFINITY ? 1.f : 0.f; });
  else exp_below(logits, max, params_.temperature, weights);
  const bool all = params_.top_k == 0 && params_.top_p == 1 && params_.min_p == 0;
  return all ? draw_of_all(weights) : draw_of_best(weights);
}

// The token at which the sum of weights reaches a random share of the whole; by blocks, then by tokens.
int32_t Sampler::draw_of_all(std::span<const float> weights) {
  constexpr size_t kBlock = 256;
  const auto block = [&](size_t at) { return weights.subspan(at, std::min(kBlock, weights.size() - at)); };
  static thread_local std::vector<double> sums;
  sums.clear();
  double total = 0;
  for (size_t at = 0; at < weights.size(); at += kBlock) total += sums.emplace_back(sum_of(block(at)));
  double left = rng_.uniform() * total;
  size_t i = 0, last = 0;  // last: the last block with any weight, should rounding lead past it
  for (; i < sums.size() && left >= sums[i]; ++i) {
    left -= sums[i];
    if (sums[i] > 0) last = i;
  }
  if (i < sums.size()) last = i;
  const std::span<const float> in = block(last * kBlock);
  size_t chosen = 0;
  for (size_t j = 0; j < in.size(); ++j) {
    if (in[j] == 0) continue;
    chosen = j;
    if ((left -= static_cast<double>(in[j])) < 0) break;
  }
  return static_cast<int32_t>(last * kBlock + chosen);
}

int32_t Sampler::draw_of_best(std::span<const float> weights) {
  static thread_local std::vector<std::pair<float, int32_t>> candidates;  // as many as the vocabulary
  candidates.clear();
  for (size_t id = 0; id < weights.size(); ++id)
    if (weights[id] > 0) candidates.emplace_back(weights[id], static_cast<int32_t>(id));
  const auto likelier = [](const auto& a, const auto& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  };
  if (params_.top_k > 0 && params_.top_k < static_cast<int64_t>(candidates.size())) {
    std::nth_element(candidates.begin(), candidates.begin() + params_.top_k, candidates.end(), likelier);
    candidates.resize(static_cast<size_t>(params_.top_k));
  }
  double total = 0;
  for (const auto& [weight, id] : candidates) total += weight;
  if (params_.top_p < 1) {
    // A heap gives the candidates in descending order one at a time; usually a few carry the mass.
    const auto heap_order = [&](const auto& a, const auto& b) { return likelier(b, a); };
    std::make_heap(candidates.begin(), candidates.end(), heap_order);
    auto kept = candidates.end();
    for (double mass = 0; kept != candidates.begin() && mass < params_.top_p * total;) {
      std::pop_heap(candidates.begin(), kept--, heap_order);
      mass += kept->first;
    }
    candidates.erase(candidates.begin(), kept);
  }
  if (params_.min_p > 0) std::erase_if(candidates, [&](const auto& c) { return c.first < params_.min_p; });
  // Back in order of ids, in which they were gathered, whatever the selections above did.
  if (params_.top_k > 0 || params_.top_p < 1)
    std::sort(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  total = 0;
  for (const auto& [weight, id] : candidates) total += weight;
  double left = rng_.uniform() * total;
  for (const auto& [weight, id] : candidates)
    if ((left -= weight) < 0) return id;
  return candidates.back().second;  // rounding left nothing of the mass: the last one
}

}  // namespace linnet::runtime
