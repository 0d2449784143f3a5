// Scores against log-probabilities of stored logits, and the arithmetic of windows.
#include "runtime/score.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/errors.h"
#include "formats/checkpoint.h"
#include "formats/file_test_support.h"

namespace linnet::runtime {
namespace {

const std::string kFolder = std::string(LINNET_SOURCE_DIR) + "/tests/data/tiny-fp32";

// -log softmax in the plainest way, long double throughout.
double plain_nll(const float* logits, int64_t n, int32_t token) {
  long double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<long double>(logits[i]) - logits[token]);
  return static_cast<double>(std::log(sum));
}

struct ScoreTest : testing::Test {
  formats::Checkpoint expected = formats::Checkpoint::open(kFolder + "/expected.safetensors");
  ConstTensor ids = *expected.find("input_ids"), logits = *expected.find("logits");
  std::span<const int32_t> row{ids.row<int32_t>(1), static_cast<size_t>(ids[1])};
  Engine engine{kFolder, {.threads = 1}};
};

TEST_F(ScoreTest, equals_the_outside_logits) {
  double sum = 0;
  for (size_t t = 0; t + 1 < row.size(); ++t)
    sum += plain_nll(logits.row<float>(1) + static_cast<int64_t>(t) * logits[2], logits[2], row[t + 1]);
  const Score score = score_document(engine, row, {});
  EXPECT_EQ(score.all.tokens, 149);
  EXPECT_NEAR(score.all.nll / 149, sum / 149, 4e-4);  // logits agree within 2e-4, and a loss is the difference of two
}

TEST_F(ScoreTest, windows_score_each_token_once_with_what_its_window_holds) {
  for (const auto& [window, stride] :
       {std::pair<int64_t, int64_t>(40, 40), {40, 16}, {40, 13}, {2, 2}, {150, 7}, {149, 149}}) {
    std::vector<int64_t> scored;
    std::vector<double> nll;
    const Score score = score_document(engine, row, {.window = window, .stride = stride}, [&](int64_t index, double x) {
      scored.push_back(index);
      nll.push_back(x);
    });
    ASSERT_EQ(score.all.tokens, static_cast<int64_t>(scored.size()));
    std::vector<int64_t> expected_tokens;
    for (int64_t t = 1; t < 150; ++t)
      if (stride < window || t % window != 0) expected_tokens.push_back(t);
    EXPECT_EQ(scored, expected_tokens) << window << " " << stride;
    for (size_t i = 0; i < scored.size();
         i += 11) {  // alone, from the beginning of the first window that holds the token
      int64_t begin = 0;
      while (begin + window <= scored[i]) begin += stride;
      const auto part = row.subspan(static_cast<size_t>(begin), static_cast<size_t>(scored[i] - begin + 1));
      double alone = 0;
      score_document(engine, part, {}, [&](int64_t, double x) { alone = x; });
      EXPECT_NEAR(nll[i], alone, 2e-4) << window << " " << stride << " token "
                                       << scored[i];  // f32 sums in another order
    }
  }
}

TEST_F(ScoreTest, buckets_add_up) {
  const Score score = score_document(engine, row, {});
  EXPECT_EQ(score.by_position[0].tokens, 3);   // 1 .. 3 tokens before
  EXPECT_EQ(score.by_position[1].tokens, 12);  // 4 .. 15
  EXPECT_EQ(score.by_position[2].tokens, 48);
  EXPECT_EQ(score.by_position[3].tokens, 149 - 63);
  double sum = 0;
  for (const Score::Sum& bucket : score.by_position) sum += bucket.nll;
  EXPECT_NEAR(sum, score.all.nll, 1e-9);
  Score twice = score;
  twice.add(score);
  EXPECT_EQ(twice.by_position[2].tokens, 96);
  EXPECT_EQ(twice.all.nll, 2 * score.all.nll);
}

TEST_F(ScoreTest, refuses_impossible_windows) {
  const auto refusal = [&](ScoreOptions options, size_t n = 150) {
    return formats::error_of<InvalidArgument>([&] { score_document(engine, row.first(n), options); });
  };
  EXPECT_THAT(refusal({.window = 1}), testing::HasSubstr("window: expected 2 to 4096"));
  EXPECT_THAT(refusal({.window = 5000}), testing::HasSubstr("got 5000"));
  EXPECT_THAT(refusal({.window = 10, .stride = 11}), testing::HasSubstr("stride: expected 1 to 10"));
  EXPECT_THAT(refusal({}, 1), testing::HasSubstr("at least 2 tokens"));
}

TEST(negative_log_probability, extremes_stay_finite) {
  const std::vector<float> logits = {1000, -1000, 1000, -INFINITY};
  EXPECT_NEAR(negative_log_probability(logits, 0), std::log(2.0), 1e-12);
  EXPECT_NEAR(negative_log_probability(logits, 1), 2000 + std::log(2.0), 1e-9);
}

}  // namespace
}  // namespace linnet::runtime
