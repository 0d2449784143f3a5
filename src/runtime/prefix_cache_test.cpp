// What the cache gives back is what was put in, and what reading the prompt again would give, bit for bit.
#include "runtime/prefix_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <set>

#include "core/errors.h"
#include "core/rng.h"
#include "formats/file_test_support.h"
#include "runtime/engine.h"

namespace linnet::runtime {
namespace {

using model::Lifetime;
using testing::HasSubstr;
const std::string kFolder = std::string(LINNET_SOURCE_DIR) + "/tests/data/tiny-fp32";
using Tokens = std::vector<int32_t>;

const LayerSpecs kHybrid = {{{"sum", DType::i64, {512}, Lifetime::per_sequence}},
                            {{"rows", DType::i64, {2}, Lifetime::per_token}}};
const LayerSpecs kRowsOnly = {{{"rows", DType::i64, {2}, Lifetime::per_token}}};
const LayerSpecs kSumOnly = {{{"sum", DType::i64, {512}, Lifetime::per_sequence}}};

// A model that remembers a number of all tokens so far: row j of the first j + 1, the sum of all.
uint64_t number_of(uint64_t before, int32_t token) { return mix64(before * 31 + static_cast<uint64_t>(token) + 1); }

void fill(StateSlot& slot, const Tokens& tokens) {
  const int64_t past = slot.n_tokens();
  uint64_t number = 0;
  for (int64_t j = 0; j < past; ++j) number = number_of(number, tokens[static_cast<size_t>(j)]);
  const auto& layers = slot.begin_append(std::span(tokens).subspan(static_cast<size_t>(past)), false);
  for (int64_t j = past; j < static_cast<int64_t>(tokens.size()); ++j) {
    number = number_of(number, tokens[static_cast<size_t>(j)]);
    for_each_state(slot.pool().specs(), [&](size_t layer, size_t i, const model::StateSpec& spec) {
      std::byte* to =
          spec.lifetime == Lifetime::per_sequence ? layers[layer][i].data : layers[layer][i].row(j, spec.bytes());
      for (int64_t at = 0; at < spec.bytes(); at += 8) std::memcpy(to + at, &number, 8);
    });
  }
  slot.end_append();
}

void expect_filled(const StateSlot& slot, const Tokens& tokens) {
  const SequenceState sequence = slot.copy_of_sequence();
  uint64_t number = 0;
  for (int64_t j = 0; j < slot.n_tokens(); ++j) {
    number = number_of(number, tokens[static_cast<size_t>(j)]);
    for_each_state(slot.pool().specs(), [&](size_t layer, size_t i, const model::StateSpec& spec) {
      const bool sum = spec.lifetime == Lifetime::per_sequence;
      if (sum && j + 1 < slot.n_tokens()) return;
      const std::byte* at =
          sum ? sequence.data() : slot.blocks()[static_cast<size_t>(j / 64)].data() + j % 64 * spec.bytes();
      ASSERT_EQ(std::memcmp(at + slot.pool().offset(layer, i), &number, 8), 0) << spec.name << " after token " << j;
    });
  }
}

// `length` tokens; `seeds` choose the tokens of one block after the other.
Tokens tokens_of(const std::vector<uint64_t>& seeds, size_t length) {
  Tokens out;
  for (size_t j = 0; j < length; ++j)
    out.push_back(static_cast<int32_t>(Rng(seeds[std::min(j / 64, seeds.size() - 1)]).bits(j) % 1000));
  return out;
}

struct Cached {
  StatePool pool;
  PrefixCache cache;
  explicit Cached(const LayerSpecs& specs = kHybrid, size_t capacity = 1 << 20, uint64_t mask = ~uint64_t{0})
      : pool(specs, "m"), cache(pool, capacity, mask) {}
  void insert(const Tokens& tokens) {
    StateSlot slot(pool);
    fill(slot, tokens);
    cache.insert(tokens, slot);
  }
  int64_t restored(const Tokens& tokens) {
    StateSlot slot(pool);
    const int64_t n = cache.restore(tokens, slot);
    EXPECT_EQ(slot.n_tokens(), n);
    expect_filled(slot, tokens);
    return n;
  }
};

TEST(prefix_cache, finds_the_longest_state_that_leaves_a_token_to_read) {
  Cached c;
  const Tokens tokens = tokens_of({1, 2, 3, 4}, 256);
  for (size_t n : {64, 192}) c.insert({tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n)});
  const std::map<size_t, int64_t> want = {{0, 0},    {1, 0},    {63, 0},    {64, 0},   {65, 64},
                                          {128, 64}, {192, 64}, {193, 192}, {256, 192}};
  for (auto [length, n] : want)
    EXPECT_EQ(c.restored({tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(length)}), n) << length;
  const PrefixCacheStats stats = c.cache.stats();
  EXPECT_EQ(stats.hits, 5);
  EXPECT_EQ(stats.misses, 0);
  EXPECT_EQ(stats.tokens_saved, 3 * 64 + 2 * 192);
  EXPECT_EQ(stats.entries, 2);
  EXPECT_EQ(stats.blocks, 3);
  EXPECT_EQ(stats.bytes, 3 * c.pool.block_bytes() + 2 * c.pool.sequence_bytes());
  EXPECT_EQ(c.pool.bytes(), stats.bytes);
}

TEST(prefix_cache, an_edit_is_as_good_as_another_prompt) {
  Cached c;
  const Tokens tokens = tokens_of({1, 2, 3, 4}, 256);
  for (size_t n : {64, 128, 256}) c.insert({tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n)});
  for (size_t at : {0, 63, 64, 127, 128, 200, 255}) {
    Tokens edited = tokens;
    edited.push_back(1);
    EXPECT_EQ(c.restored(edited), 256);
    edited[at] += 1;
    EXPECT_EQ(c.restored(edited), at < 64 ? 0 : at < 128 ? 64 : 128) << at;
    EXPECT_EQ(c.cache.common_prefix(edited), static_cast<int64_t>(at / 64 * 64));
  }
  EXPECT_EQ(c.cache.stats().misses, 2);
}

TEST(prefix_cache, branches_share_what_they_have_in_common) {
  Cached c;
  for (uint64_t branch : {5, 6, 7}) c.insert(tokens_of({1, 2, branch, branch}, 256));
  EXPECT_EQ(c.cache.stats().blocks, 2 + 3 * 2);
  EXPECT_EQ(c.restored(tokens_of({1, 2, 8}, 256)), 0);  // rows of two blocks are there, a state is not
  EXPECT_EQ(c.cache.common_prefix(tokens_of({1, 2, 8}, 256)), 128);
  c.insert(tokens_of({1, 2}, 128));
  EXPECT_EQ(c.restored(tokens_of({1, 2, 8}, 256)), 128);
  for (uint64_t branch : {5, 6, 7}) EXPECT_EQ(c.restored(tokens_of({1, 2, branch, branch}, 257)), 256);
}

TEST(prefix_cache, what_goes_on_from_a_hit_does_not_touch_it) {
  Cached c;
  const Tokens tokens = tokens_of({1, 2, 3, 4}, 200);
  c.insert({tokens.begin(), tokens.begin() + 128});
  StateSlot a(c.pool), b(c.pool);
  EXPECT_EQ(c.cache.restore(tokens, a), 128);
  EXPECT_EQ(c.cache.restore(tokens, b), 128);
  fill(a, tokens);
  expect_filled(a, tokens);
  expect_filled(b, tokens);
  EXPECT_EQ(c.restored(tokens), 128);
  c.cache.clear();
  expect_filled(b, tokens);
  a.reset(), b.reset();
  EXPECT_EQ(c.pool.bytes(), 0u);
}

TEST(prefix_cache, holds_nothing_of_what_is_shorter_than_a_block) {
  Cached c;
  StateSlot slot(c.pool);
  fill(slot, tokens_of({1}, 12));
  EXPECT_THROW(c.cache.insert(tokens_of({1}, 12), slot), InvalidArgument);
  EXPECT_THROW(c.cache.insert(tokens_of({1}, 64), slot), InvalidArgument);
  EXPECT_THROW(c.cache.insert({}, StateSlot(c.pool)), InvalidArgument);
  Cached other;
  EXPECT_THROW(c.cache.restore(tokens_of({1}, 80), *std::make_unique<StateSlot>(other.pool)), InvalidArgument);
  EXPECT_EQ(c.cache.bytes(), 0u);
  EXPECT_EQ(c.cache.stats().blocks, 0);
}

TEST(prefix_cache, a_state_that_is_too_large_or_unwanted_is_not_kept) {
  for (size_t capacity : {0u, 4095u}) {
    Cached c(kHybrid, capacity);
    c.insert(tokens_of({1}, 64));
    EXPECT_EQ(c.restored(tokens_of({1}, 65)), 0);
    EXPECT_EQ(c.pool.bytes(), 0u);
  }
  Cached c;
  StateSlot slot(c.pool);
  fill(slot, tokens_of({1}, 64));
  c.pool.set_limit(c.pool.bytes());  // running sequences have all the memory
  c.cache.insert(tokens_of({1}, 64), slot);
  EXPECT_EQ(c.cache.stats().blocks, 0);
}

TEST(prefix_cache, evicts_what_saves_least_per_byte) {
  Cached c;
  const size_t block = c.pool.block_bytes(), sum = c.pool.sequence_bytes();
  const Tokens turns = tokens_of({1, 2, 3, 4, 5, 6}, 384);
  const auto prefix = [&](std::ptrdiff_t n) { return Tokens(turns.begin(), turns.begin() + n); };
  c.insert(tokens_of({9}, 64));
  for (std::ptrdiff_t n : {256, 320, 384}) c.insert(prefix(n));
  EXPECT_EQ(c.cache.evict(1), block + sum);  // 64 tokens, as the last turn, and older
  EXPECT_EQ(c.restored(tokens_of({9}, 65)), 0);
  c.restored(tokens_of({1, 2, 3, 4, 5, 7}, 384));  // used: 320
  EXPECT_EQ(c.cache.evict(1), block + sum);        // the last turn
  EXPECT_EQ(c.restored(tokens_of({1, 2, 3, 4, 5, 6}, 385)), 320);
  // A state inside goes alone, rows stay for those behind it; then the next saves all its tokens, and goes with its rows.
  c.restored(prefix(321)), c.restored(prefix(321));
  EXPECT_EQ(c.cache.evict(sum), sum);
  EXPECT_EQ(c.restored(prefix(300)), 0);
  EXPECT_EQ(c.restored(prefix(321)), 320);
  EXPECT_EQ(c.cache.evict(SIZE_MAX), 5 * block + sum);
  EXPECT_EQ(c.cache.evict(1), 0u);
  EXPECT_EQ(c.cache.stats().blocks, 0);
  EXPECT_EQ(c.pool.bytes(), 0u);
}

TEST(prefix_cache, a_state_that_is_used_outlives_those_that_are_not) {
  Cached c(kHybrid, 8 * (1024 + 4096));
  c.insert(tokens_of({1}, 64));
  for (uint64_t i = 0; i < 300; ++i) {
    EXPECT_EQ(c.restored(tokens_of({1}, 65)), 64) << i;
    c.insert(tokens_of({1000 + i}, 64));
  }
  int64_t lost = 0;  // and gives way when nobody asks for it any more
  while (c.cache.common_prefix(tokens_of({1}, 64)) > 0 && ++lost < 1000)
    c.insert(tokens_of({2000 + static_cast<uint64_t>(lost)}, 64));
  EXPECT_GT(lost, 8);
  EXPECT_LT(lost, 1000);
}

// Where the pool is full, a copy takes the place of others, never of what is copied.
TEST(prefix_cache, a_copy_makes_room_for_itself) {
  Cached c;
  const Tokens small = tokens_of({1}, 64), large = tokens_of({2, 3}, 128);
  c.insert(large), c.insert(small);
  const auto copied = [&](const Tokens& tokens) {
    StateSlot slot(c.pool);
    c.pool.set_limit(c.pool.bytes());
    const int64_t n = c.cache.copy_state(tokens, slot);
    c.pool.set_limit(SIZE_MAX);
    expect_filled(slot, tokens);
    return n;
  };
  c.restored(tokens_of({2, 3}, 129));
  EXPECT_EQ(c.cache.stats().hits, 1);
  EXPECT_EQ(copied(small), 64);  // though it is worth least
  EXPECT_EQ(c.cache.common_prefix(large), 0);
  EXPECT_EQ(c.cache.stats().hits, 1);
  EXPECT_THROW(copied(small), OutOfMemory);  // nothing else is there to give way
  EXPECT_EQ(c.cache.common_prefix(small), 64);
  EXPECT_EQ(copied(large), 0);
}

TEST(prefix_cache, what_running_slots_share_is_not_its_own) {
  Cached c;
  StateSlot slot(c.pool);
  fill(slot, tokens_of({1, 2}, 128));
  c.cache.insert(tokens_of({1, 2}, 128), slot);
  EXPECT_EQ(c.cache.bytes(), c.pool.sequence_bytes());
  EXPECT_EQ(c.cache.evict(1), c.pool.sequence_bytes());
  c.cache.insert(tokens_of({1, 2}, 128), slot);
  slot.reset();
  EXPECT_EQ(c.cache.bytes(), c.pool.bytes());
  EXPECT_EQ(c.cache.bytes(), 2 * c.pool.block_bytes() + c.pool.sequence_bytes());
  c.cache.set_capacity(c.cache.bytes() - 1);
  EXPECT_EQ(c.pool.bytes(), 0u);
}

// Thousands of inserts of prompts that share beginnings, against a map of what was inserted. With a mask of two bits most blocks have
// the same hash.
TEST(prefix_cache, under_pressure_it_forgets_and_never_errs) {
  for (const LayerSpecs* specs : {&kHybrid, &kRowsOnly, &kSumOnly})
    for (uint64_t mask : {~uint64_t{0}, uint64_t{3}}) {
      constexpr size_t kCapacity = 100000;
      Cached c(*specs, kCapacity, mask);
      const Rng rng(specs == &kHybrid ? 1 : 2);
      std::set<Tokens> inserted;
      int64_t hits = 0;
      for (uint64_t i = 0; i < 2000; ++i) {
        const auto draw = [&](uint64_t k, uint64_t n) { return rng.bits(16 * i + k) % n; };
        const size_t n_blocks = 1 + draw(0, 6);
        std::vector<uint64_t> seeds;
        for (size_t b = 0; b < n_blocks; ++b) seeds.push_back(draw(b + 1, 3));
        const Tokens tokens = tokens_of(seeds, 64 * n_blocks + draw(9, 64));
        StateSlot slot(c.pool);
        const int64_t n = c.cache.restore(tokens, slot);
        ASSERT_EQ(n % 64, 0);
        ASSERT_LT(n, static_cast<int64_t>(tokens.size()));
        ASSERT_EQ(n, slot.n_tokens());
        expect_filled(slot, tokens);
        if (n > 0 && specs != &kRowsOnly) {
          ASSERT_TRUE(inserted.count({tokens.begin(), tokens.begin() + n})) << "never inserted";
        }
        hits += n > 0;
        const Tokens whole(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(64 * n_blocks));
        if (n < static_cast<int64_t>(whole.size())) fill(slot, whole);
        c.cache.insert(whole, slot);
        inserted.insert(whole);
        ASSERT_LE(c.cache.bytes(), kCapacity);
        slot.reset();
        if (draw(10, 4) == 0) c.cache.set_capacity(kCapacity);
        ASSERT_EQ(c.cache.bytes(), c.pool.bytes());
        ASSERT_TRUE(c.cache.ranks_hold()) << i;
      }
      EXPECT_GT(hits, 200);
      EXPECT_GT(c.cache.stats().evictions, 200);
      c.cache.clear();
      EXPECT_EQ(c.pool.bytes(), 0u);
    }
}

// With a model: logits of the prompt's end and of some decoding after it.
struct Talk {
  Engine engine;
  std::string logits;

  explicit Talk(int64_t tokens_per_pass) : engine(kFolder, {.threads = 2, .tokens_per_pass = tokens_per_pass}) {}

  void append(StateSlot& slot, std::span<const int32_t> tokens, model::Step step, Want want) {
    const Append request{.slot = &slot, .tokens = tokens, .want = want, .step = step};
    engine.append({&request, 1}, [&](size_t, int64_t, Tensor l) {
      logits.append(reinterpret_cast<const char*>(l.data), static_cast<size_t>(l.bytes()));
    });
  }
  // What follows the tokens that the slot does not hold yet; the state at the last multiple of a block goes to the cache.
  std::string answer(StateSlot& slot, std::span<const int32_t> tokens, PrefixCache* cache) {
    logits.clear();
    const auto past = static_cast<size_t>(slot.n_tokens()), cut = std::max(past, (tokens.size() - 1) / 64 * 64);
    append(slot, tokens.subspan(past, cut - past), model::Step::prefill, Want::nothing);
    if (cache && cut > 0) cache->insert(tokens.first(cut), slot);
    append(slot, tokens.subspan(cut), model::Step::prefill, Want::last);
    for (int32_t token : {7, 200, 3}) append(slot, {&token, 1}, model::Step::decode, Want::last);
    return logits;
  }
};

TEST(prefix_cache_of_a_model, conversations_go_on_with_the_bits_of_reading_everything) {
  Talk with(256), without(64);
  with.engine.states().set_fill(std::byte{0x3e});
  PrefixCache cache(with.engine.states(), size_t{64} << 20);
  const Rng rng(5);
  Tokens history;
  size_t stored = 0;
  for (uint64_t turn = 0; turn < 30; ++turn) {
    const size_t more = turn == 0 ? 12 : turn == 1 ? 53 : 4 + rng.bits(turn) % 25;  // 12, then 65 tokens
    for (size_t i = 0; i < more; ++i) history.push_back(static_cast<int32_t>(rng.bits(1000 * turn + i) % 320));
    Tokens tokens = history;
    if (turn == 12) tokens[100] ^= 1;  // an edit: read again from there, and forgotten again
    if (turn == 20) tokens.resize(tokens.size() / 2), tokens.push_back(5);
    StateSlot slot = with.engine.new_slot(), cold = without.engine.new_slot();
    const int64_t n = cache.restore(tokens, slot);
    if (turn != 20) { EXPECT_EQ(n, static_cast<int64_t>(turn == 12 ? 64 : stored)); }
    ASSERT_TRUE(with.answer(slot, tokens, &cache) == without.answer(cold, tokens, nullptr)) << "turn " << turn;
    if (turn != 12 && turn != 20) stored = (history.size() - 1) / 64 * 64;
  }
  EXPECT_GT(cache.stats().tokens_saved, 4000);
}

TEST(prefix_cache_of_a_model, any_beginning_may_be_shared) {
  Talk with(128), without(512);
  for (size_t capacity : {size_t{64} << 20, size_t{200} << 10}) {
    PrefixCache cache(with.engine.states(), capacity);
    const Rng rng(6);
    for (uint64_t i = 0; i < 24; ++i) {
      Tokens tokens;
      for (uint64_t b = 0; b < 1 + rng.bits(10 * i) % 4; ++b) {
        const Tokens block = tokens_of({rng.bits(10 * i + b + 1) % 2}, 64);
        for (int32_t t : block) tokens.push_back(t % 320);
      }
      for (uint64_t j = 0; j < 1 + rng.bits(10 * i + 9) % 70; ++j) tokens.push_back(static_cast<int32_t>(j * i % 320));
      StateSlot slot = with.engine.new_slot(), cold = without.engine.new_slot();
      cache.restore(tokens, slot);
      ASSERT_TRUE(with.answer(slot, tokens, &cache) == without.answer(cold, tokens, nullptr)) << "prompt " << i;
      ASSERT_LE(cache.bytes(), capacity);
    }
    EXPECT_GT(cache.stats().hits, 5);
  }
}

}  // namespace
}  // namespace linnet::runtime
