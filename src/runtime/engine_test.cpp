// What Engine::append promises beside the numbers: which rows come, how passes are cut, that it can be stopped.
#include "runtime/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "core/errors.h"

namespace linnet::runtime {
namespace {

using testing::ElementsAre;

const std::string kFolder = std::string(LINNET_SOURCE_DIR) + "/tests/data/tiny-fp32";

std::vector<int32_t> some_tokens(size_t n) {
  std::vector<int32_t> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<int32_t>(i * 53 % 320);
  return out;
}

// Row of logits by (request, token).
using Rows = std::map<std::pair<size_t, int64_t>, std::vector<float>>;

Rows rows_of(Engine& engine, std::span<const Append> requests) {
  Rows out;
  engine.append(requests, [&](size_t request, int64_t first, Tensor l) {
    for (int64_t i = 0; i < l[0]; ++i) {
      const bool fresh =
          out.emplace(std::pair(request, first + i), std::vector<float>(l.row<float>(i), l.row<float>(i) + l[1]))
              .second;
      EXPECT_TRUE(fresh) << "row delivered twice: " << request << ", " << first + i;
    }
  });
  return out;
}

TEST(engine, the_rows_that_were_asked_for) {
  Engine engine(kFolder, {.threads = 2, .tokens_per_pass = 64});
  const std::vector<int32_t> a = some_tokens(100), b = some_tokens(30), c = some_tokens(5);
  StateSlot slots[4] = {engine.new_slot(), engine.new_slot(), engine.new_slot(), engine.new_slot()};
  const Append requests[] = {{.slot = &slots[0], .tokens = a, .want = Want::last},
                             {.slot = &slots[1], .tokens = b, .want = Want::all},
                             {.slot = &slots[2], .tokens = c, .want = Want::nothing}};
  const Rows rows = rows_of(engine, requests);
  EXPECT_EQ(rows.size(), 31u);
  ASSERT_TRUE(rows.contains({0, 99}));
  for (int64_t i = 0; i < 30; ++i) EXPECT_TRUE(rows.contains({1, i})) << i;

  const Append alone[] = {{.slot = &slots[3], .tokens = a, .want = Want::all}};
  const Rows all = rows_of(engine, alone);
  EXPECT_EQ(all.size(), 100u);
  for (size_t i = 0; i < all.at({0, 99}).size(); ++i) EXPECT_NEAR(all.at({0, 99})[i], rows.at({0, 99})[i], 2e-4);
}

TEST(engine, long_prompts_are_cut_at_multiples_of_the_chunk_of_the_sequence) {
  Engine engine(kFolder, {.threads = 1, .tokens_per_pass = 150});
  StateSlot slot = engine.new_slot();
  const std::vector<int32_t> ids = some_tokens(400);
  std::vector<int64_t> lengths;
  const auto append = [&](size_t from, size_t to) {
    const Append request{.slot = &slot, .tokens = std::span(ids).subspan(from, to - from), .want = Want::nothing};
    return engine.append(
        {&request, 1}, [](size_t, int64_t, Tensor) {},
        [&](int64_t, int64_t) {
          lengths.push_back(slot.n_tokens());
          return true;
        });
  };
  EXPECT_TRUE(append(0, 10));
  EXPECT_TRUE(append(10, 400));
  EXPECT_THAT(lengths, ElementsAre(10, 128, 256, 400));
}

TEST(engine, can_be_stopped_between_passes) {
  Engine engine(kFolder, {.threads = 1, .tokens_per_pass = 64});
  StateSlot slot = engine.new_slot();
  const std::vector<int32_t> ids = some_tokens(200);
  const Append request{.slot = &slot, .tokens = ids, .want = Want::last};
  const auto never = [](size_t, int64_t, Tensor) { FAIL() << "the last token did not run"; };
  EXPECT_FALSE(engine.append({&request, 1}, never, [](int64_t done, int64_t total) { return done < total / 2; }));
  EXPECT_EQ(slot.n_tokens(), 128);
}

TEST(engine, options_are_checked) {
  EXPECT_THROW(Engine(kFolder, {.context = 4097}), InvalidArgument);
  EXPECT_THROW(Engine(kFolder, {.context = -1}), InvalidArgument);
  EXPECT_THROW(Engine(kFolder, {.tokens_per_pass = -1}), InvalidArgument);
  EXPECT_THROW(Engine(kFolder, {.threads = -1}), InvalidArgument);
  Engine engine(kFolder, {.threads = 1, .context = 100});
  EXPECT_EQ(engine.context(), 100);
  EXPECT_GE(engine.tokens_per_pass(), 64);
}

}  // namespace
}  // namespace linnet::runtime
