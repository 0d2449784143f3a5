// Mixture-of-experts routing: the definition, plain loops in double.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "ops/moe/moe.h"

namespace linnet::ops {
namespace {

using Row = std::vector<double>;

Row scores_of(const RouterArgs& a, int64_t n) {
  const float* logits = a.logits.row<float>(n);
  Row s(static_cast<size_t>(a.logits[1]));
  double max = -std::numeric_limits<double>::infinity(), sum = 0;
  for (size_t e = 0; e < s.size(); ++e) max = std::max<double>(max, logits[e]);
  for (size_t e = 0; e < s.size(); ++e) {
    const double x = logits[e];
    s[e] = a.score == RouterScore::sigmoid ? 1 / (1 + std::exp(-x)) : std::exp(x - max);
    sum += s[e];
  }
  if (a.score == RouterScore::softmax)
    for (double& value : s) value /= sum;
  return s;
}

// Indices by descending value, lower index first among equals.
std::vector<size_t> descending(const Row& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) { return values[i] > values[j]; });
  return order;
}

void clear_weak_groups(const RouterArgs& a, Row& choice) {
  const size_t groups = static_cast<size_t>(a.n_groups), width = choice.size() / groups;
  Row group_score;
  for (size_t g = 0; g < groups; ++g) {
    Row members(choice.begin() + static_cast<std::ptrdiff_t>(g * width),
                choice.begin() + static_cast<std::ptrdiff_t>((g + 1) * width));
    std::sort(members.rbegin(), members.rend());
    group_score.push_back(members[0] + (width > 1 ? members[1] : 0));
  }
  const std::vector<size_t> order = descending(group_score);
  for (size_t i = static_cast<size_t>(a.topk_groups); i < groups; ++i)
    for (size_t e = 0; e < width; ++e) choice[order[i] * width + e] = 0;
}

}  // namespace

void router_ref(const RouterArgs& a) {
  const int64_t E = a.logits[1], K = a.experts[1];
  for (int64_t n = 0; n < a.logits[0]; ++n) {
    const float* logits = a.logits.row<float>(n);
    int32_t* experts = a.experts.row<int32_t>(n);
    float* weights = a.weights.row<float>(n);
    if (std::any_of(logits, logits + E, [](float x) { return std::isnan(x); })) {
      for (int64_t k = 0; k < K; ++k)
        experts[k] = static_cast<int32_t>(k), weights[k] = std::numeric_limits<float>::quiet_NaN();
      continue;
    }
    const Row score = scores_of(a, n);
    Row choice = score;
    if (a.bias)
      for (int64_t e = 0; e < E; ++e) choice[static_cast<size_t>(e)] += a.bias.as<float>()[e];
    const Row biased = choice;
    if (a.n_groups > 1) clear_weak_groups(a, choice);
    const std::vector<size_t> order = descending(choice);
    const Row& source = a.biased_weights ? biased : score;
    double sum = 0;
    for (int64_t k = 0; k < K; ++k) sum += source[order[static_cast<size_t>(k)]];
    for (int64_t k = 0; k < K; ++k) {
      const size_t e = order[static_cast<size_t>(k)];
      experts[k] = static_cast<int32_t>(e);
      weights[k] = static_cast<float>(source[e] / (a.renormalize ? sum + 1e-20 : 1) * a.scaling);
    }
  }
}

void combine_ref(const CombineArgs& a) {
  const int64_t C = a.x[1], K = a.position[1];
  for (int64_t n = 0; n < a.y[0]; ++n)
    for (int64_t c = 0; c < C; ++c) {
      double sum = a.accumulate ? a.y.row<float>(n)[c] : 0;
      for (int64_t k = 0; k < K; ++k)
        sum += static_cast<double>(a.weights.row<float>(n)[k]) * a.x.row<float>(a.position.row<int32_t>(n)[k])[c];
      a.y.row<float>(n)[c] = static_cast<float>(sum);
    }
}

}  // namespace linnet::ops
