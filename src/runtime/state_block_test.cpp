// The pool's accounts, and slots that share blocks: whatever is shared, each slot is what it would be alone, bit for bit.
#include "runtime/state_block.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "core/errors.h"
#include "formats/file_test_support.h"
#include "runtime/engine.h"

namespace linnet::runtime {
namespace {

using model::Lifetime;
using testing::HasSubstr;

const std::string kFolder = std::string(LINNET_SOURCE_DIR) + "/tests/data/tiny-fp32";
const LayerSpecs kSpecs = {
    {{"rows", DType::bf16, {3}, Lifetime::per_token}, {"sum", DType::f32, {5}, Lifetime::per_sequence}},
    {{"rows", DType::f32, {2}, Lifetime::per_token}}};

TEST(state_pool, knows_where_tensors_lie) {
  const StatePool pool(kSpecs, "m");
  EXPECT_EQ(pool.block_bytes(), 64u * 6 + 64 * 8);
  EXPECT_EQ(pool.sequence_bytes(), 64u);  // 20, and up to the next tensor's alignment
  EXPECT_EQ(pool.offset(0, 0), 0u);
  EXPECT_EQ(pool.offset(0, 1), 0u);
  EXPECT_EQ(pool.offset(1, 0), 64u * 6);
  EXPECT_EQ(pool.bytes_of(0), 64u);
  EXPECT_EQ(pool.bytes_of(64), 64u + 896);
  EXPECT_EQ(pool.bytes_of(65), 64u + 2 * 896);
}

TEST(state_pool, counts_what_it_hands_out) {
  StatePool pool(kSpecs, "m");
  {
    StateBlock a = pool.take_block();
    const StateBlock b = a, c = std::move(a);
    EXPECT_TRUE(b.shared());
    EXPECT_EQ(pool.bytes(), 896u);
    const SequenceState s = pool.take_sequence();
    EXPECT_EQ(pool.bytes(), 960u);
  }
  EXPECT_EQ(pool.bytes(), 0u);
  EXPECT_EQ(pool.peak_bytes(), 960u);
  std::vector<StateBlock> blocks;
  pool.set_limit(2 * 896);
  for (int i = 0; i < 2; ++i) blocks.push_back(pool.take_block());
  EXPECT_THAT(formats::error_of<OutOfMemory>([&] { blocks.push_back(pool.take_block()); }),
              HasSubstr("limit is 1.75 KiB"));
  EXPECT_THROW(pool.take_sequence(), OutOfMemory);
  blocks.pop_back();
  EXPECT_NO_THROW(pool.take_sequence());
  pool.release_spare();
  EXPECT_EQ(pool.bytes(), 896u);
}

TEST(state_pool, idle_blocks_are_those_that_only_the_one_who_marked_them_holds) {
  StatePool pool(kSpecs, "m");
  StateBlock kept = pool.take_block();
  EXPECT_EQ(pool.idle_bytes(), 0u);
  kept.mark_idle(), kept.mark_idle();
  EXPECT_EQ(pool.idle_bytes(), 896u);
  {
    const StateBlock user = kept, other = user;
    EXPECT_EQ(pool.idle_bytes(), 0u);
  }
  EXPECT_EQ(pool.idle_bytes(), 896u);
  const StateBlock user = kept;
  kept.unmark_idle();
  EXPECT_EQ(pool.idle_bytes(), 0u);
  kept = {};
  EXPECT_EQ(pool.idle_bytes(), 0u);
  EXPECT_EQ(pool.bytes(), 896u);
}

TEST(state_pool, references_in_several_threads_are_counted) {
  StatePool pool(kSpecs, "m");
  std::vector<StateBlock> kept;
  for (int i = 0; i < 4; ++i) kept.push_back(pool.take_block());
  std::vector<std::thread> users;
  for (int t = 0; t < 4; ++t)
    users.emplace_back([copy = kept, &pool]() mutable {
      for (int i = 0; i < 300; ++i) {
        const std::vector<StateBlock> more = copy;
        const StateBlock own = pool.take_block();
        std::rotate(copy.begin(), copy.begin() + 1, copy.end());
      }
    });
  for (int i = 0; i < 300; ++i)
    for (const StateBlock& block : kept) block.mark_idle(), block.unmark_idle(), block.mark_idle();
  kept.back().unmark_idle();
  kept.pop_back();
  for (std::thread& user : users) user.join();
  users.clear();
  EXPECT_EQ(pool.bytes(), 3 * 896u);
  EXPECT_EQ(pool.idle_bytes(), 3 * 896u);
}

TEST(state_pool, memory_that_comes_again_is_filled_again) {
  StatePool pool(kSpecs, "m");
  pool.set_fill(std::byte{0x3e});
  for (int i = 0; i < 2; ++i) {
    const StateBlock block = pool.take_block();
    const SequenceState sequence = pool.take_sequence();
    for (size_t at = 0; at < pool.block_bytes(); ++at) ASSERT_EQ(block.data()[at], std::byte{0x3e});
    for (size_t at = 0; at < pool.sequence_bytes(); ++at) ASSERT_EQ(sequence.data()[at], std::byte{0x3e});
    std::memset(block.data(), 0, pool.block_bytes()), std::memset(sequence.data(), 0, pool.sequence_bytes());
  }
}

// All that a slot remembers.
struct Image {
  std::string bytes;
  bool operator==(const Image&) const = default;
};
void PrintTo(const Image& image, std::ostream* out) { *out << image.bytes.size() << " bytes"; }

Image image(const StateSlot& slot) {
  std::string out = std::to_string(slot.n_tokens()) + ":";
  const auto add = [&](const std::byte* data, int64_t bytes) {
    out.append(reinterpret_cast<const char*>(data), static_cast<size_t>(bytes));
  };
  const StatePool& pool = slot.pool();
  const SequenceState sequence = slot.copy_of_sequence();
  for_each_state(pool.specs(), [&](size_t layer, size_t i, const model::StateSpec& spec) {
    const size_t at = pool.offset(layer, i);
    if (spec.lifetime == Lifetime::per_sequence) return add(sequence.data() + at, spec.bytes());
    for (int64_t row = 0; row < slot.n_tokens(); row += 64)
      add(slot.blocks()[static_cast<size_t>(row / 64)].data() + at,
          std::min<int64_t>(64, slot.n_tokens() - row) * spec.bytes());
  });
  return {out};
}

struct Sharing : testing::Test {
  Engine engine{kFolder, {.threads = 2}};

  static std::vector<int32_t> ids(int32_t seed, int64_t n) {
    std::vector<int32_t> out;
    for (int32_t i = 0; i < n; ++i) out.push_back((i * 37 + seed * 101) % 320);
    return out;
  }
  void append(StateSlot& slot, const std::vector<int32_t>& t, bool tentative = false) {
    const Append request{.slot = &slot, .tokens = t, .tentative = tentative, .want = Want::nothing};
    engine.append({&request, 1}, [](size_t, int64_t, Tensor) { FAIL() << "nobody asked for logits"; });
  }
  // What the model answers after this state, all of which its attention reads.
  Image answer(StateSlot& slot) {
    Image out;
    const std::vector<int32_t> token = {7};
    const Append request{.slot = &slot, .tokens = token, .tentative = true};
    engine.append({&request, 1}, [&](size_t, int64_t, Tensor l) {
      out.bytes.assign(reinterpret_cast<const char*>(l.data), static_cast<size_t>(l.bytes()));
    });
    slot.rollback();
    return out;
  }
  // The state after these appends, in memory of its own.
  Image alone(const std::vector<std::vector<int32_t>>& pieces) {
    StateSlot slot = engine.new_slot();
    for (const auto& piece : pieces) append(slot, piece);
    return image(slot);
  }
};

TEST_F(Sharing, forks_go_their_own_ways) {
  for (int64_t length : {1, 63, 64, 65, 127, 128, 130}) {
    SCOPED_TRACE(length);
    const std::vector<int32_t> start = ids(1, length), left = ids(2, 66), right = ids(3, 5), more = ids(4, 70);
    StateSlot a = engine.new_slot();
    append(a, start);
    StateSlot b = engine.new_slot(), c = engine.new_slot();
    b.copy_from(a), c.copy_from(b);
    const size_t blocks = static_cast<size_t>((length + 63) / 64), block_bytes = engine.states().block_bytes();
    EXPECT_EQ(a.held().shared, blocks * block_bytes);
    EXPECT_EQ(a.held().own, engine.states().sequence_bytes());
    EXPECT_EQ(engine.states().bytes(), 3 * engine.states().sequence_bytes() + blocks * block_bytes);
    append(b, left), append(a, right), append(b, more), append(c, left);
    const size_t full = static_cast<size_t>(length / 64);
    EXPECT_EQ(b.held().shared, full * block_bytes);
    EXPECT_EQ(image(a), alone({start, right}));
    EXPECT_EQ(image(b), alone({start, left, more}));
    EXPECT_EQ(image(c), alone({start, left}));
    for (size_t i = 0; i < full; ++i) EXPECT_TRUE(a.blocks()[i] == b.blocks()[i] && b.blocks()[i] == c.blocks()[i]);
  }
  EXPECT_EQ(engine.states().bytes(), 0u);
}

TEST_F(Sharing, the_last_holder_of_a_block_writes_it_in_place) {
  StateSlot a = engine.new_slot();
  append(a, ids(1, 70));
  const std::byte* last = a.blocks()[1].data();
  {
    StateSlot b = engine.new_slot();
    b.copy_from(a);
    append(b, ids(2, 3));
    EXPECT_NE(b.blocks()[1].data(), last);
    append(a, ids(3, 3));
    EXPECT_EQ(a.blocks()[1].data(), last);
  }
  EXPECT_EQ(image(a), alone({ids(1, 70), ids(3, 3)}));
}

TEST_F(Sharing, tentative_rows_of_one_do_not_show_in_another) {
  for (int64_t length : {60, 64, 70}) {
    StateSlot a = engine.new_slot(), b = engine.new_slot();
    append(a, ids(1, length));
    append(a, ids(2, 80), true);
    b.copy_from(a);
    a.rollback();
    EXPECT_EQ(a.held().own + a.held().shared, engine.states().bytes_of(length));  // the rows rolled back are gone
    append(a, ids(3, 90));
    EXPECT_EQ(image(a), alone({ids(1, length), ids(3, 90)}));
    EXPECT_EQ(b.n_tentative(), 80);
    EXPECT_EQ(image(b), alone({ids(1, length), ids(2, 80)}));
    b.rollback();
    EXPECT_EQ(image(b), alone({ids(1, length)}));
  }
  EXPECT_EQ(engine.states().bytes(), 0u);
}

TEST_F(Sharing, parts_of_a_state_make_a_state) {
  StateSlot a = engine.new_slot(), b = engine.new_slot();
  append(a, ids(1, 128));
  const SequenceState sequence = a.copy_of_sequence();
  const std::vector<StateBlock> blocks(a.blocks().begin(), a.blocks().end());
  append(a, ids(2, 10));
  append(b, ids(3, 200));
  b.assign(128, blocks, sequence);
  EXPECT_EQ(image(b), alone({ids(1, 128)}));
  append(b, ids(4, 10));
  EXPECT_EQ(image(b), alone({ids(1, 128), ids(4, 10)}));
  EXPECT_EQ(image(a), alone({ids(1, 128), ids(2, 10)}));
  StateSlot c = engine.new_slot();
  append(c, ids(1, 128)), append(c, ids(4, 10));
  EXPECT_EQ(answer(b), answer(c));
  append(b, ids(5, 1)), append(c, ids(5, 1));
  EXPECT_EQ(answer(b), answer(c));
}

TEST_F(Sharing, no_memory_changes_nothing) {
  StatePool& pool = engine.states();
  const std::vector<int32_t> more = ids(3, 10);
  for (bool tentative : {true, false}) {
    StateSlot a = engine.new_slot(), b = engine.new_slot(), c = engine.new_slot();
    append(a, ids(1, 60)), append(b, ids(2, 60));
    const Image before_a = image(a), before_b = image(b);
    pool.set_limit(pool.bytes() + pool.block_bytes() + (tentative ? pool.sequence_bytes() : 0));  // for one of them
    const Append both[] = {{.slot = &a, .tokens = more, .tentative = tentative, .want = Want::nothing},
                           {.slot = &b, .tokens = more, .tentative = tentative, .want = Want::nothing}};
    EXPECT_THROW(engine.append(both, [](size_t, int64_t, Tensor) {}), OutOfMemory);
    EXPECT_THROW(c.copy_from(a), OutOfMemory);
    EXPECT_EQ(c.n_tokens(), 0);
    pool.set_limit(SIZE_MAX);
    EXPECT_EQ(a.n_tentative() + b.n_tentative(), 0);
    EXPECT_EQ(image(a), before_a);
    EXPECT_EQ(image(b), before_b);
    append(a, more), append(b, ids(4, 3), true), append(b, ids(4, 6), true);
    EXPECT_EQ(image(a), alone({ids(1, 60), more}));
    EXPECT_EQ(a.n_tentative(), 0);
    EXPECT_EQ(b.n_tentative(), 9);
    EXPECT_EQ(b.tentative_tokens().size(), 9u);
    b.rollback();
    EXPECT_EQ(image(b), before_b);
  }
  EXPECT_EQ(pool.bytes(), 0u);
}

// Whatever memory held before, the answers are the same: nothing is read that was not written.
TEST(fresh_memory, may_hold_anything) {
  const auto scenario = [](std::optional<std::byte> fill) {
    Engine engine(kFolder, {.threads = 2, .tokens_per_pass = 64});
    if (fill) engine.states().set_fill(*fill);
    std::string seen;
    const auto append = [&](StateSlot& slot, int32_t seed, int64_t n, bool tentative = false) {
      const std::vector<int32_t> ids = Sharing::ids(seed, n);
      const Append request{.slot = &slot, .tokens = ids, .tentative = tentative, .want = Want::all};
      engine.append({&request, 1}, [&](size_t, int64_t, Tensor l) {
        seen.append(reinterpret_cast<const char*>(l.data), static_cast<size_t>(l.bytes()));
      });
    };
    StateSlot a = engine.new_slot(), b = engine.new_slot();
    append(a, 1, 150);
    b.copy_from(a);
    append(a, 2, 1), append(b, 3, 70, true), append(a, 4, 62);
    b.rollback();
    append(b, 5, 3);
    seen += image(a).bytes + image(b).bytes;
    a.reset();
    append(a, 6, 65);
    b = engine.new_slot();
    append(b, 7, 1);
    return seen + image(a).bytes + image(b).bytes;
  };
  const std::string want = scenario({});
  for (int fill : {0x00, 0x3e, 0xff}) EXPECT_TRUE(scenario(std::byte(fill)) == want) << "fill " << fill;
}

}  // namespace
}  // namespace linnet::runtime
