// trainer.json: read back as written, hostile text refused, other runs refused by name.
#include "train/trainer_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "core/errors.h"
#include "formats/file_test_support.h"

namespace linnet::train {
namespace {

using formats::error_of;
using testing::HasSubstr;

TrainerState state() {
  return {.step = 12,
          .tokens = 9'000'000'000'000,
          .seconds = 0.1,
          .data = {.vocab_size = 512, .tokenizer_hash = 0xfedcba9876543210, .content_hash = 7},
          .config = "{\n  \"seed\": 1,\n  \"data\": {\n    \"folder\": \"a\"\n  }\n}\n",
          .numbers = {{"loss_mean", 1.0 / 3}, {"tiny", 5e-324}, {"large", std::numeric_limits<double>::max()}}};
}

TEST(trainer_state, is_read_back_as_written) {
  const TrainerState a = state(), b = parse_trainer_json(trainer_json(a), "trainer.json");
  EXPECT_EQ(b.step, a.step);
  EXPECT_EQ(b.tokens, a.tokens);
  EXPECT_EQ(b.seconds, a.seconds);
  EXPECT_EQ(b.data.vocab_size, a.data.vocab_size);
  EXPECT_EQ(b.data.tokenizer_hash, a.data.tokenizer_hash);
  EXPECT_EQ(b.data.content_hash, a.data.content_hash);
  EXPECT_EQ(b.config, a.config);
  EXPECT_EQ(b.numbers, a.numbers);
}

TEST(trainer_state, refuses_numbers_that_json_cannot_say) {
  TrainerState s = state();
  s.numbers["mean"] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(error_of<InvalidArgument>([&] { trainer_json(s); }), "trainer.json: mean: expected a finite number");
}

TEST(trainer_state, refuses_what_is_no_state) {
  const auto refusal = [](std::string_view from, std::string_view to) {
    std::string text = trainer_json(state());
    const size_t at = text.find(from);
    EXPECT_NE(at, text.npos) << from;
    text.replace(at, from.size(), to);
    return error_of<FormatError>([&] { parse_trainer_json(text, "t"); });
  };
  EXPECT_EQ(refusal("\"format\": 1", "\"format\": 2"), "t: format: expected 1, got 2");
  EXPECT_THAT(refusal("\"step\": 12", "\"step\": -1"), HasSubstr("t: step: expected integer in"));
  EXPECT_EQ(refusal("fedcba9876543210", "xyz"), "t: tokenizer_hash: expected 16 hexadecimal digits, got \"xyz\"");
  EXPECT_THAT(refusal("\"config\": {", "\"configs\": {"), HasSubstr("t: config: expected object, got nothing"));
  EXPECT_THAT(refusal("\"tiny\": 5e-324", "\"tiny\": \"5\""), HasSubstr("t: numbers.tiny: expected finite number"));
}

TEST(trainer_state, another_run_is_refused_by_name) {
  TrainerState now = state();
  EXPECT_NO_THROW(require_resumable(state(), now, "run"));
  now.config = "{\"seed\": 1, \"data\": {\"folder\": \"b\"}}";  // only where
  EXPECT_NO_THROW(require_resumable(state(), now, "run"));
  const auto refusal = [&] { return error_of<InvalidArgument>([&] { require_resumable(state(), now, "run"); }); };
  now.config = "{\"seed\": 2}";
  EXPECT_EQ(refusal(), "run: cannot resume: seed: 1 when the checkpoint was written, 2 now");
  now = state(), now.data.tokenizer_hash = 1;
  EXPECT_EQ(refusal(),
            "run: cannot resume: tokenizer: fedcba9876543210 when the checkpoint was written, 0000000000000001 now");
  now = state(), now.data.vocab_size = 513;
  EXPECT_THAT(refusal(), HasSubstr("vocabulary of the tokenizer: 512 when"));
  now = state(), now.data.content_hash = 8;
  EXPECT_THAT(refusal(), HasSubstr("cannot resume: data: 0000000000000007 when"));
}

}  // namespace
}  // namespace linnet::train
