// The gradient of whole models against differences of their loss, and what must not change a bit of it.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "train/train_test_support.h"

namespace linnet::train {
namespace {

using test_support::RandomPass;
using test_support::small_config;

struct Model {
  model::KimiLinear model;
  Parameters parameters;
  ThreadPool pool;
  Workspace scratch, tape;

  explicit Model(model::ModelConfig config, int threads = 2, DType precision = DType::f32)
      : model(std::move(config), DType::f32),
        parameters(model, precision),
        pool(threads),
        scratch(size_t{256} << 20),
        tape(size_t{256} << 20) {
    parameters.initialize(model.config().initializer_range, 5);
    parameters.refresh(exec());
  }
  Exec exec() { return {pool, scratch}; }

  double loss(RandomPass& pass) {
    parameters.refresh(exec());
    model.train(pass.pass, pass.loss(0, true), model::Recompute::none, tape, exec());
    return pass.sum();
  }
  void backward(RandomPass& pass, model::Recompute recompute = model::Recompute::none) {
    parameters.zero_gradients(exec());
    model.train(pass.pass, pass.loss(1, false), recompute, tape, exec());
  }
  std::vector<std::vector<float>> gradients() const {
    std::vector<std::vector<float>> all;
    for (const Parameter& p : parameters.all())
      all.emplace_back(p.grad.as<float>(), p.grad.as<float>() + p.grad.elements());
    return all;
  }
};

// Moves every tensor by itself along its gradient. h is such that the loss changes by 0.02, or less where that would leave the
// range in which the loss is near its second-order expansion. A loss is a sum of about 100 numbers near 4, each with a few
// roundings of f32: kNoise is ten standard deviations of that.
void expect_gradient(Model& m, RandomPass& pass) {
  m.backward(pass);
  const auto gradients = m.gradients();
  for (size_t t = 0; t < gradients.size(); ++t) {
    const Parameter& p = m.parameters.all()[t];
    if (p.row->group == model::OptimizerGroup::frozen) continue;
    double squares = 0;
    for (float g : gradients[t]) squares += static_cast<double>(g) * static_cast<double>(g);
    const double norm = std::sqrt(squares);
    constexpr double kNoise = 4e-5;
    float* w = p.master.as<float>();
    const std::vector<float> before(w, w + p.master.elements());
    const double h = std::min(0.01 / norm, 0.05);
    ASSERT_GT(norm * h, 3 * kNoise) << p.row->name << ": a gradient that cannot be checked";
    double end[2];
    for (int side : {0, 1}) {
      for (size_t i = 0; i < before.size(); ++i)
        w[i] = before[i] + static_cast<float>((side ? h : -h) * static_cast<double>(gradients[t][i]) / norm);
      end[side] = m.loss(pass);
    }
    std::memcpy(w, before.data(), before.size() * sizeof(float));
    const double numeric = (end[1] - end[0]) / (2 * h);
    EXPECT_NEAR(numeric, norm, 0.01 * norm + kNoise / h) << p.row->name;
  }
  m.parameters.refresh(m.exec());
}

// Every expert is chosen: a choice that changes would be a jump of the loss. (The golden gradients have choices.)
model::ModelConfig smooth_config(std::vector<std::string> mixers) {
  model::ModelConfig config = small_config(std::move(mixers));
  config.moe.experts_per_token = config.moe.experts;
  return config;
}

TEST(ModelGradient, EqualsDifferencesForEveryKindOfLayer) {
  for (const char* second : {"kda", "gdn", "mla"}) {
    SCOPED_TRACE(second);
    Model m(smooth_config({"kda", second, "mla"}));
    RandomPass pass(m.model, {70, 1, 0, 33}, 11, false);
    expect_gradient(m, pass);
  }
}

TEST(ModelGradient, EqualsDifferencesFromGivenStates) {
  Model m(smooth_config({"gdn", "kda"}));
  RandomPass pass(m.model, {66, 3}, 12, true);
  expect_gradient(m, pass);
}

TEST(ModelGradient, EqualsDifferencesWithTiedEmbeddingsAndTheBoundedGate) {
  model::ModelConfig config = smooth_config({"kda", "mla"});
  config.tie_embeddings = true;
  config.kda.gate = ops::DecayGateKind::lower_bound, config.kda.gate_lower_bound = -5;
  Model m(config);
  RandomPass pass(m.model, {40, 25}, 13, false);
  expect_gradient(m, pass);
}

TEST(ModelGradient, RecomputationAndThreadsChangeNoBit) {
  const auto gradients = [](int threads, model::Recompute recompute, DType precision) {
    Model m(small_config({"kda", "mla", "gdn"}), threads, precision);
    RandomPass pass(m.model, {130, 7, 64}, 14, true);
    m.backward(pass, recompute);
    return m.gradients();
  };
  for (DType precision : {DType::f32, DType::bf16}) {
    const auto want = gradients(1, model::Recompute::none, precision);
    EXPECT_EQ(gradients(1, model::Recompute::layer, precision), want);
    EXPECT_EQ(gradients(2, model::Recompute::none, precision), want);
    EXPECT_EQ(gradients(3, model::Recompute::layer, precision), want);
  }
}

// Sequences packed together and each alone: the sums over them are made in another order, nothing else differs.
TEST(ModelGradient, PackedSequencesDoNotSeeEachOther) {
  Model m(small_config({"kda", "mla"}));
  RandomPass packed(m.model, {65, 30, 9}, 15, false);
  m.backward(packed);
  const auto together = m.gradients();
  std::vector<std::vector<float>> sum;
  for (size_t b = 0; b < 3; ++b) {
    RandomPass one(m.model, {packed.seq_start[b + 1] - packed.seq_start[b]}, 15, false);
    const auto begin = packed.seq_start[b];
    std::copy_n(packed.ids.begin() + begin, one.ids.size(), one.ids.begin());
    std::copy_n(packed.target.begin() + begin, one.target.size(), one.target.begin());
    m.backward(one);
    const auto alone = m.gradients();
    if (b == 0) sum = alone;
    else
      for (size_t t = 0; t < sum.size(); ++t)
        for (size_t i = 0; i < sum[t].size(); ++i) sum[t][i] += alone[t][i];
    for (size_t i = 0; i < one.nll.size(); ++i)
      EXPECT_NEAR(one.nll[i], packed.nll[static_cast<size_t>(begin) + i], 1e-4f) << "sequence " << b << " token " << i;
  }
  for (size_t t = 0; t < sum.size(); ++t) {
    double difference = 0, squares = 0;
    for (size_t i = 0; i < sum[t].size(); ++i) {
      difference += std::pow(static_cast<double>(sum[t][i] - together[t][i]), 2);
      squares += std::pow(static_cast<double>(together[t][i]), 2);
    }
    EXPECT_LE(std::sqrt(difference), 1e-4 * std::sqrt(squares) + 1e-6) << m.parameters.all()[t].row->name;
  }
}

}  // namespace
}  // namespace linnet::train
