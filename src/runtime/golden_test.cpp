// The model against what Hugging Face transformers answers for the same weights (tests/data/README.md).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "formats/checkpoint.h"
#include "formats/file_test_support.h"
#include "runtime/engine.h"
#include "support/compare.h"
#include "support/owned_tensor.h"

namespace linnet::runtime {
namespace {

using test::OwnedTensor;

const std::string kFolder = std::string(LINNET_SOURCE_DIR) + "/tests/data/tiny-fp32";

// An independent f32 implementation agrees with these logits within 2e-5 (tests/data/README.md); sums in another order over
// 5 layers leave less than ten times that.
constexpr test::Tolerance kGolden{.abs = 2e-4, .why = "f32 sums in another order"};

struct Golden : testing::Test {
  formats::Checkpoint expected = formats::Checkpoint::open(kFolder + "/expected.safetensors");
  ConstTensor ids = *expected.find("input_ids");  // [2, 150]
  ConstTensor logits = *expected.find("logits");  // [2, 150, V]
  int64_t T = ids[1], V = logits[2];

  std::span<const int32_t> row(int64_t b) const { return {ids.row<int32_t>(b), static_cast<size_t>(T)}; }
  ConstTensor expected_logits(int64_t b) const { return ConstTensor::of(logits.row<float>(b), {T, V}); }

  // Logits of all tokens of one row, appended in calls of the given sizes.
  OwnedTensor run(Engine& engine, StateSlot& slot, int64_t b, const std::vector<int64_t>& sizes, int64_t from = 0) {
    OwnedTensor out = OwnedTensor::zeros({T, V});
    for (int64_t size : sizes) {
      const Append request{.slot = &slot,
                           .tokens = row(b).subspan(static_cast<size_t>(from), static_cast<size_t>(size)),
                           .want = Want::all};
      engine.append({&request, 1}, [&](size_t, int64_t first, Tensor l) {
        std::memcpy(out.view().row<float>(from + first), l.data, static_cast<size_t>(l.bytes()));
      });
      from += size;
    }
    return out;
  }
};

TEST_F(Golden, logits_and_hidden_states) {
  Engine engine(kFolder, {.threads = 2});
  for (int64_t b = 0; b < 2; ++b) {
    int64_t layers_seen = 0;
    engine.set_observer([&](int64_t layer, const ConstTensor& stream) {
      const ConstTensor want = *expected.find("hidden." + std::to_string(layer));
      EXPECT_TRUE(test::close(stream, ConstTensor::of(want.row<float>(b), {T, want[2]}), kGolden)) << "layer " << layer;
      ++layers_seen;
    });
    StateSlot slot = engine.new_slot();
    EXPECT_TRUE(test::close(run(engine, slot, b, {T}), expected_logits(b), kGolden));
    EXPECT_EQ(layers_seen, 6);
  }
}

TEST_F(Golden, however_the_prompt_is_cut) {
  Engine engine(kFolder, {.threads = 2});
  const std::vector<std::vector<int64_t>> cuts = {{1, 149},        {63, 1, 86}, {64, 64, 22},
                                                  {37, 50, 0, 63}, {65, 2, 83}, {100, 50}};
  for (const auto& sizes : cuts) {
    StateSlot slot = engine.new_slot();
    EXPECT_TRUE(test::close(run(engine, slot, 0, sizes), expected_logits(0), kGolden)) << "first piece " << sizes[0];
  }
  StateSlot slot = engine.new_slot();
  EXPECT_TRUE(
      test::close(run(engine, slot, 1, std::vector<int64_t>(static_cast<size_t>(T), 1)), expected_logits(1), kGolden))
      << "token by token";
}

TEST_F(Golden, however_passes_are_cut) {
  for (int64_t per_pass : {1, 7, 64, 100}) {
    Engine engine(kFolder, {.threads = 2, .tokens_per_pass = per_pass});
    StateSlot slot = engine.new_slot();
    EXPECT_TRUE(test::close(run(engine, slot, 0, {T}), expected_logits(0), kGolden)) << per_pass << " tokens per pass";
  }
}

TEST_F(Golden, greedy_tokens) {
  const ConstTensor want = *expected.find("greedy");  // [1, 61]: 37 tokens of row 0, then 24 greedy ones
  constexpr int64_t kPrompt = 37;
  Engine engine(kFolder, {.threads = 2});
  StateSlot slot = engine.new_slot();
  std::vector<int32_t> next(row(0).begin(), row(0).begin() + kPrompt);
  for (int64_t i = kPrompt; i < want[1]; ++i) {
    const Append request{.slot = &slot, .tokens = next};
    int32_t best = -1;
    engine.append({&request, 1}, [&](size_t, int64_t, Tensor l) {
      best = static_cast<int32_t>(std::max_element(l.as<float>(), l.as<float>() + V) - l.as<float>());
    });
    ASSERT_EQ(best, want.as<int32_t>()[i]) << "token " << i;
    next = {best};
  }
}

TEST_F(Golden, through_a_state_file) {
  const formats::ScratchFolder folder;
  Engine engine(kFolder, {.threads = 2});
  for (int64_t cut : {0, 1, 64, 77}) {
    StateSlot first = engine.new_slot();
    run(engine, first, 0, {cut});
    first.export_to(folder / "state", {{"note", "x"}});
    Engine later(kFolder, {.threads = 1});  // as after a restart
    StateSlot second = later.new_slot();
    EXPECT_EQ(second.import_from(folder / "state"), (std::map<std::string, std::string>{{"note", "x"}}));
    EXPECT_EQ(second.n_tokens(), cut);
    const OwnedTensor through = run(later, second, 0, {T - cut}, cut);
    const OwnedTensor direct = run(engine, first, 0, {T - cut}, cut);
    EXPECT_TRUE(test::same_bits(through, direct)) << "cut at " << cut;
    EXPECT_TRUE(test::close(through.view().rows(cut, T), expected_logits(0).rows(cut, T), kGolden));
  }
}

TEST_F(Golden, batched_with_other_sequences) {
  Engine engine(kFolder, {.threads = 2, .tokens_per_pass = 96});
  StateSlot a = engine.new_slot(), b = engine.new_slot(), empty = engine.new_slot();
  OwnedTensor out[2] = {OwnedTensor::zeros({T, V}), OwnedTensor::zeros({T, V})};
  int64_t at[2] = {0, 0};
  while (at[0] < T || at[1] < T) {  // ragged steps of both rows, with an empty request between them
    const int64_t n[2] = {std::min<int64_t>(41, T - at[0]), std::min<int64_t>(97, T - at[1])};
    const Append requests[] = {{.slot = &a,
                                .tokens = row(0).subspan(static_cast<size_t>(at[0]), static_cast<size_t>(n[0])),
                                .want = Want::all},
                               {.slot = &empty, .tokens = {}, .want = Want::all},
                               {.slot = &b,
                                .tokens = row(1).subspan(static_cast<size_t>(at[1]), static_cast<size_t>(n[1])),
                                .want = Want::all}};
    engine.append(requests, [&](size_t request, int64_t first, Tensor l) {
      const size_t which = request / 2;
      std::memcpy(out[which].view().row<float>(at[which] + first), l.data, static_cast<size_t>(l.bytes()));
    });
    at[0] += n[0], at[1] += n[1];
  }
  EXPECT_TRUE(test::close(out[0], expected_logits(0), kGolden));
  EXPECT_TRUE(test::close(out[1], expected_logits(1), kGolden));
  EXPECT_EQ(empty.n_tokens(), 0);
}

// The four options really change the result, and only when asked: a switch that does nothing would pass every other test.
TEST_F(Golden, parity_options_change_the_result) {
  model::ParityOptions options[4];
  options[0].biased_router_weights = true;
  options[1].latent_norm_eps = 0.1f;
  options[2].round_norm_before_weight = true;
  options[3].round_decay_to_bf16 = true;
  for (const model::ParityOptions& parity : options) {
    Engine engine(kFolder, {.threads = 2, .load = {.parity = parity}});
    StateSlot slot = engine.new_slot();
    EXPECT_FALSE(test::close(run(engine, slot, 0, {T}), expected_logits(0), {.abs = 1e-4, .why = "must differ"}));
  }
}

}  // namespace
}  // namespace linnet::runtime
