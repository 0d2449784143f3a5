// A mixer that nobody else knows: forty lines, registered from outside, then driven through everything the runtime does with state.
// It keeps one state of each kind: a running sum of inputs (per sequence) and the inputs themselves (per token).
#include <gtest/gtest.h>

#include <cstring>

#include "core/errors.h"
#include "formats/file_test_support.h"
#include "runtime/engine.h"
#include "support/compare.h"
#include "support/owned_tensor.h"

namespace linnet::runtime {
namespace {

using model::LayerState;
using model::ModelConfig;
using model::StateSpec;
using test::OwnedTensor;

// y_t = gain * (sum_{j <= t} x_j + x_0)
class ToyMixer : public model::Mixer {
 public:
  explicit ToyMixer(int64_t hidden) : hidden_(hidden), gain_({hidden}) {}
  void tensors(model::TensorTable& table, const std::string& prefix) override {
    table.add_f32(prefix + "gain", {hidden_}, gain_, model::Init::ones);
  }
  std::vector<StateSpec> state() const override {
    return {{"sum", DType::f32, {hidden_}, model::Lifetime::per_sequence},
            {"inputs", DType::f32, {hidden_}, model::Lifetime::per_token}};
  }
  void forward(const model::Pass& pass, std::span<const LayerState> states, ConstTensor x, Tensor y, const Exec&,
               model::Tape*) const override {
    for (int64_t b = 0; b < pass.n_seqs(); ++b) {
      float* sum = reinterpret_cast<float*>(states[static_cast<size_t>(b)][0].data);
      const model::StateMemory& inputs = states[static_cast<size_t>(b)][1];
      const int32_t* start = pass.seq_start.as<int32_t>();
      for (int64_t n = start[b]; n < start[b + 1]; ++n) {
        const int64_t position = pass.n_past[static_cast<size_t>(b)] + n - start[b];
        std::memcpy(inputs.row(position, hidden_ * 4), x.row<float>(n), static_cast<size_t>(hidden_) * sizeof(float));
        const float* first = reinterpret_cast<const float*>(inputs.row(0, hidden_ * 4));
        for (int64_t c = 0; c < hidden_; ++c) {
          sum[c] += x.row<float>(n)[c];
          y.row<float>(n)[c] = gain_.view().as<float>()[c] * (sum[c] + first[c]);
        }
      }
    }
  }

 private:
  int64_t hidden_;
  model::F32Parameter gain_;
};

struct Toy : testing::Test {
  static constexpr int64_t C = 8, V = 11;
  std::vector<OwnedTensor> memory;
  std::unique_ptr<Engine> engine;

  void SetUp() override {
    model::register_mixer("toy", [](const ModelConfig& c, DType) -> std::unique_ptr<model::Mixer> {
      return std::make_unique<ToyMixer>(c.hidden);
    });
    ModelConfig config;
    config.vocab_size = V, config.hidden = C, config.context = 1000, config.dense_width = 12;
    config.mixers = {"toy", "toy"}, config.ffns = {model::FfnKind::dense, model::FfnKind::dense};
    auto model = std::make_unique<model::KimiLinear>(config, DType::f32);
    uint64_t seed = 1;
    for (const model::TensorRow& row : model->table().rows()) {
      if (row.matrix) {
        memory.push_back(OwnedTensor::normal({row.shape[0], row.shape[1]}, seed++, 0.3));
        row.matrix->w = memory.back();
      } else {
        for (int64_t i = 0; i < row.f32.elements(); ++i) row.f32.as<float>()[i] = 1;
      }
    }
    model->prepare();
    engine = std::make_unique<Engine>(
        model::LoadedModel{.checkpoint = {}, .model = std::move(model), .identity = "toy", .cache_dtype = DType::f32},
        EngineOptions{.threads = 2});
  }

  OwnedTensor run(StateSlot& slot, std::vector<int32_t> ids, bool tentative = false) {
    OwnedTensor out = OwnedTensor::zeros({static_cast<int64_t>(ids.size()), V});
    const Append request{.slot = &slot, .tokens = ids, .tentative = tentative, .want = Want::all};
    engine->append({&request, 1}, [&](size_t, int64_t first, Tensor l) {
      std::memcpy(out.view().row<float>(first), l.data, static_cast<size_t>(l.bytes()));
    });
    return out;
  }
};

TEST_F(Toy, prefill_equals_decode) {
  StateSlot whole = engine->new_slot(), stepped = engine->new_slot();
  const OwnedTensor want = run(whole, {1, 2, 3, 4, 5, 6, 7});
  for (int32_t i = 0; i < 7; ++i) {
    const OwnedTensor got = run(stepped, {i + 1});
    EXPECT_TRUE(test::close(got, want.view().rows(i, i + 1), {.abs = 1e-5, .why = "f32 sums of a few terms"}))
        << "token " << i;
  }
}

TEST_F(Toy, rollback_copy_and_files_need_no_word_from_the_mixer) {
  const formats::ScratchFolder folder;
  StateSlot slot = engine->new_slot(), copy = engine->new_slot();
  run(slot, {1, 2, 3});
  slot.export_to(folder / "state", {});
  copy.copy_from(slot);
  run(slot, {9, 9}, true);
  slot.rollback();
  StateSlot loaded = engine->new_slot();
  loaded.import_from(folder / "state");
  const OwnedTensor want = run(copy, {4, 5});
  EXPECT_TRUE(test::same_bits(run(slot, {4, 5}), want));
  EXPECT_TRUE(test::same_bits(run(loaded, {4, 5}), want));
}

TEST_F(Toy, unknown_mixers_are_named) {
  ModelConfig config;
  config.vocab_size = V, config.hidden = C, config.context = 10, config.dense_width = 4;
  config.mixers = {"mamba"}, config.ffns = {model::FfnKind::dense};
  EXPECT_EQ(formats::error_of<InvalidArgument>([&] { model::KimiLinear(config, DType::f32); }),
            "mixer: expected one of gdn, kda, mla, toy, got mamba");
}

}  // namespace
}  // namespace linnet::runtime
