// What the tests of this layer share: a small model with every kind of layer, and a pass over random tokens.
#pragma once

#include <numeric>
#include <vector>

#include "core/rng.h"
#include "model/kimi_linear.h"
#include "train/parameters.h"

namespace linnet::train::test_support {

inline model::ModelConfig small_config(std::vector<std::string> mixers) {
  model::ModelConfig c;
  c.vocab_size = 61, c.hidden = 16, c.context = 512, c.dense_width = 20;
  c.mixers = std::move(mixers);
  for (size_t i = 0; i < c.mixers.size(); ++i) c.ffns.push_back(i == 0 ? model::FfnKind::dense : model::FfnKind::moe);
  c.kda = {.heads = 2, .head_dim = 8};
  c.mla = {.heads = 2, .latent_rank = 12, .key_dim = 8, .shared_key_dim = 4, .value_dim = 6};
  c.moe = {.experts = 5, .experts_per_token = 2, .shared_experts = 1, .width = 12, .scaling = 1.5f};
  c.initializer_range = 0.15f;
  c.dtype = DType::f32;
  return c;
}

// Random tokens in sequences of the given lengths.
struct RandomPass {
  std::vector<int32_t> ids, target, seq_start{0};
  std::vector<int64_t> n_past;
  std::vector<float> nll;
  std::vector<std::vector<float>> memory;
  std::vector<model::LayerState> states, initial;
  model::Pass pass;

  RandomPass(const model::KimiLinear& model, const std::vector<int32_t>& lengths, uint64_t seed, bool with_states) {
    Rng rng(seed);
    const auto V = static_cast<uint64_t>(model.config().vocab_size);
    for (int32_t length : lengths) {
      for (int32_t i = 0; i < length; ++i) {
        ids.push_back(static_cast<int32_t>(rng.bits() % V));
        target.push_back(rng.uniform() < 0.1 ? -1 : static_cast<int32_t>(rng.bits() % V));
      }
      seq_start.push_back(seq_start.back() + length);
      n_past.push_back(0);
    }
    nll.resize(ids.size());
    const size_t B = lengths.size();
    states.resize(B * model.state_specs().size()), initial = states;
    for (size_t layer = 0; layer < model.state_specs().size(); ++layer)
      for (size_t b = 0; b < B; ++b)
        for (size_t i = 0; i < model.state_specs()[layer].size(); ++i) {
          const model::StateSpec& spec = model.state_specs()[layer][i];
          if (spec.lifetime != model::Lifetime::per_sequence) continue;
          for (model::LayerState* state : {&states[layer * B + b], &initial[layer * B + b]}) {
            memory.emplace_back(static_cast<size_t>(spec.bytes() / 4));
            if (state == &initial[layer * B + b])
              for (float& value : memory.back()) value = static_cast<float>(0.3 * rng.normal());
            (*state)[i].data = reinterpret_cast<std::byte*>(memory.back().data());
          }
        }
    const auto ints = [](const std::vector<int32_t>& v) {
      return ConstTensor::of(v.data(), {static_cast<int64_t>(v.size())});
    };
    pass.ids = ints(ids), pass.seq_start = ints(seq_start), pass.n_past = n_past, pass.states = states;
    if (with_states) pass.initial = initial;
  }

  model::Loss loss(float scale, bool forward_only) {
    return {.target = ConstTensor::of(target.data(), {static_cast<int64_t>(target.size())}),
            .weight = {},
            .nll = Tensor::of(nll.data(), {static_cast<int64_t>(nll.size())}),
            .scale = scale,
            .forward_only = forward_only};
  }
  double sum() const {
    return std::accumulate(nll.begin(), nll.end(), 0.0, [](double s, float v) { return s + static_cast<double>(v); });
  }
};

}  // namespace linnet::train::test_support
