// A mixer that nobody else knows, registered from outside, goes through a training step, a checkpoint and back.
#include <gtest/gtest.h>

#include <cstring>

#include "core/errors.h"
#include "formats/file_test_support.h"
#include "train/train_test_support.h"
#include "train/trainer.h"

namespace linnet::train {
namespace {

using model::LayerState;

// y_t = gain * sum_{j <= t} x_j;  so  dx_t = sum_{j >= t} gain * dy_j  and  dgain = sum_t dy_t * (y_t / gain).
class SumMixer : public model::Mixer {
 public:
  explicit SumMixer(int64_t hidden) : hidden_(hidden), gain_({hidden}) {}
  void tensors(model::TensorTable& table, const std::string& prefix) override {
    table.add_f32(prefix + "gain", {hidden_}, gain_, model::Init::ones);
  }
  std::vector<model::StateSpec> state() const override {
    return {{"sum", DType::f32, {hidden_}, model::Lifetime::per_sequence}};
  }
  void forward(const model::Pass& pass, std::span<const LayerState> states, ConstTensor x, Tensor y, const Exec&,
               model::Tape* tape) const override {
    Tensor sums = y;
    if (tape) sums = tape->memory().tensor<float>({x[0], hidden_}), tape->push(sums);
    for_each_token(pass, [&](size_t b, int64_t n) {
      float* sum = reinterpret_cast<float*>(states[b][0].data);
      for (int64_t c = 0; c < hidden_; ++c) {
        sum[c] += x.row<float>(n)[c];
        sums.row<float>(n)[c] = sum[c];
        y.row<float>(n)[c] = gain()[c] * sum[c];
      }
    });
  }
  void backward(const model::Pass& pass, std::span<const LayerState>, ConstTensor, ConstTensor dy, Tensor dx,
                const Exec&, model::Tape& tape) const override {
    const Tensor& sums = tape.pop<Tensor>();
    const int32_t* start = pass.seq_start.as<int32_t>();
    for (int64_t b = 0; b < pass.n_seqs(); ++b)
      for (int64_t c = 0; c < hidden_; ++c) {
        float later = 0;
        for (int64_t n = start[b + 1] - 1; n >= start[b]; --n) {
          later += gain()[c] * dy.row<float>(n)[c];
          dx.row<float>(n)[c] = later;
          gain_.grad().as<float>()[c] += dy.row<float>(n)[c] * sums.row<float>(n)[c];
        }
      }
  }
  int64_t tape_bytes_per_token() const override { return 4 * hidden_; }

 private:
  const float* gain() const { return gain_.view().as<float>(); }
  template <class Body>
  void for_each_token(const model::Pass& pass, Body body) const {
    const int32_t* start = pass.seq_start.as<int32_t>();
    for (int64_t b = 0; b < pass.n_seqs(); ++b)
      for (int64_t n = start[b]; n < start[b + 1]; ++n) body(static_cast<size_t>(b), n);
  }

  int64_t hidden_;
  model::F32Parameter gain_;
};

// One that can only run.
class ForwardOnly : public SumMixer {
 public:
  using SumMixer::SumMixer;
  void backward(const model::Pass& p, std::span<const LayerState> s, ConstTensor x, ConstTensor dy, Tensor dx,
                const Exec& e, model::Tape& t) const override {
    Mixer::backward(p, s, x, dy, dx, e, t);
  }
};

TEST(TrainerOfAToyMixer, StepsSavesAndGoesOn) {
  model::register_mixer("sum", [](const model::ModelConfig& c, DType) -> std::unique_ptr<model::Mixer> {
    return std::make_unique<SumMixer>(c.hidden);
  });
  ThreadPool pool(2);
  Workspace scratch(size_t{64} << 20), tape(size_t{64} << 20);
  model::KimiLinear model(test_support::small_config({"sum", "kda"}), DType::f32);
  Parameters parameters(model, DType::f32);
  parameters.initialize(0.15f, 5);
  parameters.refresh({pool, scratch});
  test_support::RandomPass pass(model, {20, 1, 9}, 4, false);
  const auto loss = [&](bool forward_only) {
    model.train(pass.pass, pass.loss(1, forward_only), model::Recompute::layer, tape, {pool, scratch});
    return pass.sum();
  };
  parameters.zero_gradients({pool, scratch});
  loss(false);
  for (const Parameter& p : parameters.all()) {
    if (p.row->name != "model.layers.0.self_attn.gain") continue;
    for (int64_t c : {0, 7}) {
      float& w = p.master.as<float>()[c];
      const float before = w, h = 0.01f;
      w = before + h;
      const double above = loss(true);
      w = before - h;
      const double below = loss(true);
      w = before;
      EXPECT_NEAR((above - below) / (2 * static_cast<double>(h)), static_cast<double>(p.grad.as<float>()[c]), 5e-3);
    }
  }

  const formats::ScratchFolder folder;
  const RunFolder owner(folder.path());
  CheckpointContents contents{.step = 1, .texts = {{"trainer.json", "{}"}}, .tokenizer_folder = {}};
  for (const Parameter& p : parameters.all())
    contents.model.push_back({.name = p.row->name, .data = p.master.reshaped({p.master.elements()})});
  contents.optimizer = contents.model;
  save_checkpoint(owner, contents, 1);
  const LoadedCheckpoint saved = load_checkpoint(*latest_checkpoint(folder.path()));
  for (const Parameter& p : parameters.all()) {
    std::vector<float> read(static_cast<size_t>(p.master.elements()));
    read_tensor(saved.model, p.row->name, Tensor::of(read.data(), {p.master.elements()}));
    EXPECT_EQ(std::memcmp(read.data(), p.master.data, read.size() * sizeof(float)), 0) << p.row->name;
  }
}

TEST(TrainerOfAToyMixer, OneWithoutBackwardIsRefused) {
  model::register_mixer("forward-only", [](const model::ModelConfig& c, DType) -> std::unique_ptr<model::Mixer> {
    return std::make_unique<ForwardOnly>(c.hidden);
  });
  ThreadPool pool(1);
  Workspace scratch(size_t{64} << 20), tape(size_t{64} << 20);
  model::KimiLinear model(test_support::small_config({"forward-only"}), DType::f32);
  Parameters parameters(model, DType::f32);
  parameters.initialize(0.15f, 5);
  parameters.refresh({pool, scratch});
  test_support::RandomPass pass(model, {5}, 4, false);
  EXPECT_THROW(model.train(pass.pass, pass.loss(1, false), model::Recompute::none, tape, {pool, scratch}), Unsupported);
}

// What the memory plan promises is what the tape takes.
TEST(TrainerOfAToyMixer, TapeBytesAreWhatThePlanSays) {
  for (const char* kind : {"kda", "gdn", "mla"})
    for (const model::Recompute recompute : {model::Recompute::none, model::Recompute::layer}) {
      SCOPED_TRACE(kind);
      ThreadPool pool(1);
      Workspace scratch(size_t{64} << 20);
      model::KimiLinear model(test_support::small_config({kind, kind, kind}), DType::f32);
      Parameters parameters(model, DType::f32);
      parameters.initialize(0.15f, 5);
      parameters.refresh({pool, scratch});
      constexpr int64_t N = 512;
      test_support::RandomPass pass(model, {N}, 4, false);
      // Each of the tensors of a layer, about 30, is rounded up to a cache line.
      const int64_t planned = N * model.tape_bytes_per_token(recompute), slack = 3 * 64 * 64;
      Workspace tape(static_cast<size_t>(planned + slack));
      model.train(pass.pass, pass.loss(1, false), recompute, tape, {pool, scratch});
      EXPECT_LE(tape.peak(), static_cast<size_t>(planned + slack));
      EXPECT_GE(tape.peak(), static_cast<size_t>(planned));
    }
}

}  // namespace
}  // namespace linnet::train
