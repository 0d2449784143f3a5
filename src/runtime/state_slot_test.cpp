// The verbs of a state slot, driven by a model: whatever the way to a state, the answers that follow from it are the same.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "core/errors.h"
#include "formats/file_test_support.h"
#include "formats/state_file.h"
#include "runtime/engine.h"

namespace linnet::runtime {
namespace {

using formats::ScratchFolder;
using testing::HasSubstr;

const std::string kFolder = std::string(LINNET_SOURCE_DIR) + "/tests/data/tiny-fp32";

struct Slots : testing::Test {
  Engine engine{kFolder, {.threads = 2}};
  std::vector<int32_t> ids = [] {
    std::vector<int32_t> out;
    for (int32_t i = 0; i < 90; ++i) out.push_back(i * 37 % 320);
    return out;
  }();

  std::span<const int32_t> tokens(size_t from, size_t to) const { return std::span(ids).subspan(from, to - from); }

  void append(StateSlot& slot, std::span<const int32_t> t, bool tentative = false) {
    const Append request{.slot = &slot, .tokens = t, .tentative = tentative, .want = Want::nothing};
    engine.append({&request, 1}, [](size_t, int64_t, Tensor) { FAIL() << "nobody asked for logits"; });
  }
  // The logits after token 0 from this state: a fingerprint of everything it remembers. Does not change the slot.
  std::vector<float> probe(const StateSlot& slot) {
    StateSlot copy = engine.new_slot();
    copy.copy_from(slot);
    const int32_t token = 0;
    std::vector<float> out;
    const Append request{.slot = &copy, .tokens = {&token, 1}, .tentative = slot.n_tentative() > 0};
    engine.append({&request, 1}, [&](size_t, int64_t, Tensor l) { out.assign(l.as<float>(), l.as<float>() + l[1]); });
    return out;
  }
  // The state after these calls of append.
  StateSlot after(const std::vector<std::pair<size_t, size_t>>& pieces) {
    StateSlot slot = engine.new_slot();
    for (auto [from, to] : pieces) append(slot, tokens(from, to));
    return slot;
  }
};

TEST_F(Slots, reset_forgets_everything) {
  StateSlot slot = after({{0, 50}});
  slot.reset();
  EXPECT_EQ(slot.n_tokens(), 0);
  EXPECT_EQ(probe(slot), probe(engine.new_slot()));
  append(slot, tokens(0, 20));
  EXPECT_EQ(probe(slot), probe(after({{0, 20}})));
}

TEST_F(Slots, copies_are_independent) {
  StateSlot slot = after({{0, 30}}), copy = engine.new_slot();
  append(copy, tokens(50, 80));  // a copy replaces what was there
  copy.copy_from(slot);
  append(slot, tokens(30, 40));
  EXPECT_EQ(copy.n_tokens(), 30);
  EXPECT_EQ(probe(copy), probe(after({{0, 30}})));
  EXPECT_EQ(probe(slot), probe(after({{0, 30}, {30, 40}})));
}

TEST_F(Slots, rollback_restores_the_committed_state_bit_for_bit) {
  StateSlot slot = after({{0, 30}});
  const std::vector<float> before = probe(slot);
  append(slot, tokens(60, 70), true);
  append(slot, tokens(70, 71), true);
  EXPECT_EQ(slot.n_tokens(), 41);
  EXPECT_EQ(slot.n_tentative(), 11);
  EXPECT_NE(probe(slot), before);
  slot.rollback();
  EXPECT_EQ(slot.n_tokens(), 30);
  EXPECT_EQ(probe(slot), before);
  slot.rollback();  // nothing tentative: nothing happens
  EXPECT_EQ(probe(slot), before);
}

TEST_F(Slots, commit_of_all_keeps_and_of_some_replays) {
  for (int64_t n : {0, 1, 3, 5}) {
    StateSlot slot = after({{0, 30}});
    append(slot, tokens(30, 33), true);
    append(slot, tokens(33, 35), true);
    engine.commit(slot, n);
    EXPECT_EQ(slot.n_tokens(), 30 + n);
    EXPECT_EQ(slot.n_tentative(), 0);
    const StateSlot want =
        n == 5 ? after({{0, 30}, {30, 33}, {33, 35}}) : after({{0, 30}, {30, 30 + static_cast<size_t>(n)}});
    EXPECT_EQ(probe(slot), probe(want)) << n << " of 5 committed";
    append(slot, tokens(40, 50));  // and life goes on
  }
  StateSlot slot = after({{0, 3}});
  EXPECT_THROW(engine.commit(slot, 1), InvalidArgument);
}

TEST_F(Slots, committed_append_on_tentative_tokens_is_refused) {
  StateSlot slot = after({{0, 10}});
  append(slot, tokens(10, 12), true);
  EXPECT_THROW(append(slot, tokens(12, 13)), InvalidArgument);
  EXPECT_EQ(slot.n_tokens(), 12);
  const ScratchFolder folder;
  EXPECT_THROW(slot.export_to(folder / "s", {}), InvalidArgument);
  EXPECT_EQ(folder.n_files(), 0u);
}

TEST_F(Slots, a_reset_slot_remembers_nothing_of_what_its_memory_held) {
  StateSlot slot = after({{0, 90}});
  slot.reset();
  append(slot, tokens(0, 5));
  EXPECT_EQ(probe(slot), probe(after({{0, 5}})));
}

TEST_F(Slots, bad_requests_change_nothing) {
  StateSlot slot = after({{0, 10}});
  const std::vector<float> before = probe(slot);
  const std::vector<int32_t> bad = {1, 320};
  EXPECT_THROW(append(slot, bad), InvalidArgument);
  const std::vector<int32_t> negative = {-1};
  EXPECT_THROW(append(slot, negative), InvalidArgument);
  const std::vector<int32_t> too_long(4096, 1);
  EXPECT_THROW(append(slot, too_long), InvalidArgument);
  const Append twice[] = {{.slot = &slot, .tokens = tokens(0, 1)}, {.slot = &slot, .tokens = tokens(0, 1)}};
  EXPECT_THROW(engine.append(twice, [](size_t, int64_t, Tensor) {}), InvalidArgument);
  EXPECT_EQ(probe(slot), before);
}

TEST_F(Slots, files_of_others_are_refused_and_leave_the_slot_alone) {
  const ScratchFolder folder;
  StateSlot slot = after({{0, 10}});
  slot.export_to(folder / "good", {});
  const std::vector<float> before = probe(slot);
  const auto refusal = [&](const std::string& name) {
    return formats::error_of<FormatError>([&] { slot.import_from(folder / name); });
  };

  std::string bytes = formats::contents(folder / "good");
  folder.write("truncated", bytes.substr(0, bytes.size() / 2));
  EXPECT_THAT(refusal("truncated"), HasSubstr("truncated"));
  bytes[bytes.size() / 2] ^= 1;
  folder.write("flipped", bytes);
  refusal("flipped");
  folder.write("foreign", "hello");
  refusal("foreign");

  Engine other(kFolder, {.threads = 1, .load = {.cache_dtype = DType::bf16}});
  other.new_slot().export_to(folder / "other", {});
  EXPECT_THAT(refusal("other"), HasSubstr("a state of another model"));
  formats::write_state_file(folder / "hollow",
                            {.model = engine.loaded().identity, .metadata = {{"linnet.n_tokens", "3"}}}, {});
  EXPECT_THAT(refusal("hollow"), HasSubstr("no such section"));
  formats::write_state_file(folder / "unnumbered", {.model = engine.loaded().identity, .metadata = {}}, {});
  EXPECT_THAT(refusal("unnumbered"), HasSubstr("n_tokens"));
  EXPECT_EQ(probe(slot), before);
  EXPECT_EQ(slot.n_tokens(), 10);
}

TEST_F(Slots, bytes_grow_with_tokens_only_where_state_is_per_token) {
  StateSlot slot = engine.new_slot();
  const size_t empty = slot.bytes();
  append(slot, tokens(0, 10));
  EXPECT_EQ(slot.bytes() - empty, 10u * 40 * 4);  // one MLA layer, 32 + 8 values of f32 a token
}

}  // namespace
}  // namespace linnet::runtime
