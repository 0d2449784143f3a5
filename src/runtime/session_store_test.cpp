// Sessions on disk: after a restart a conversation goes on with the same bits, and a file that is not right is refused as a whole.
#include "runtime/session_store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>

#include "core/errors.h"
#include "core/rng.h"
#include "core/text.h"
#include "formats/file_test_support.h"
#include "formats/state_file.h"
#include "runtime/engine.h"

namespace linnet::runtime {
namespace {

using formats::error_of;
using formats::FullDisk;
using formats::ScratchFolder;
using testing::ElementsAre;
using testing::HasSubstr;
using Tokens = std::vector<int32_t>;

const std::string kData = std::string(LINNET_SOURCE_DIR) + "/tests/data/";
const std::string kMessages = R"([{"role": "user", "content": "Grüße, 世界"}])";

Tokens tokens_of(uint64_t seed, size_t n) {
  Tokens out;
  for (size_t i = 0; i < n; ++i) out.push_back(static_cast<int32_t>(Rng(seed).bits(i) % 320));
  return out;
}

Session load(const SessionStore& store, const std::string& name, PrefixCache& cache) {
  SessionStore::Saved saved = store.open(name);
  StateSlot slot(cache.pool());
  slot.import_from(saved.file);
  cache.insert(saved.tokens_of_state(), slot);
  return std::move(saved.session);
}

// One life of the program: an engine and its cache.
struct Life {
  Engine engine{kData + "tiny-fp32", {.threads = 2}};
  PrefixCache cache{engine.states(), size_t{16} << 20};

  void append(StateSlot& slot, std::span<const int32_t> tokens, model::Step step, std::string* logits = nullptr) {
    const Append request{.slot = &slot, .tokens = tokens, .want = logits ? Want::last : Want::nothing, .step = step};
    engine.append({&request, 1}, [&](size_t, int64_t, Tensor l) {
      logits->append(reinterpret_cast<const char*>(l.data), static_cast<size_t>(l.bytes()));
    });
  }
  StateSlot read(std::span<const int32_t> tokens) {
    StateSlot slot = engine.new_slot();
    append(slot, tokens, model::Step::prefill);
    return slot;
  }
  void keep(std::span<const int32_t> tokens) { cache.insert(tokens, read(tokens)); }
  void save(const SessionStore& store, const std::string& name, const Session& session) {
    StateSlot slot = engine.new_slot();
    cache.copy_state(session.tokens, slot);
    store.save(name, session, slot);
  }
  struct Answer {
    int64_t cached;
    std::string logits;
  };
  Answer answer(std::span<const int32_t> tokens) {
    StateSlot slot = engine.new_slot();
    Answer out{cache.restore(tokens, slot), ""};
    append(slot, tokens.subspan(static_cast<size_t>(out.cached)), model::Step::prefill, &out.logits);
    for (int32_t token : {4, 300, 17}) append(slot, {&token, 1}, model::Step::decode, &out.logits);
    return out;
  }
};

TEST(session_store, a_conversation_goes_on_after_a_restart) {
  const ScratchFolder folder;
  const SessionStore store(folder / "sessions/of/me");
  const Tokens said = tokens_of(1, 150), next = tokens_of(1, 199);
  std::string want;
  {
    Life first;
    EXPECT_THAT(store.list(), ElementsAre());
    first.keep(std::span(said).first(64));
    first.keep(std::span(said).first(128));
    first.save(store, "talk", {said, kMessages});
    EXPECT_EQ(store.list().at(0).state_tokens, 128);
    EXPECT_EQ(first.cache.stats().hits, 0);
    want = first.answer(next).logits;
  }
  Life second;
  EXPECT_EQ(second.answer(next).cached, 0);
  const Session session = load(store, "talk", second.cache);
  EXPECT_EQ(session.tokens, said);
  EXPECT_EQ(session.messages, kMessages);
  const Life::Answer got = second.answer(next);
  EXPECT_EQ(got.cached, 128);
  EXPECT_TRUE(got.logits == want);
  EXPECT_TRUE(second.answer(said).cached == 128);  // forked earlier
}

TEST(session_store, lists_has_and_removes) {
  const ScratchFolder folder;
  const SessionStore store(folder.path());
  Life life;
  const StateSlot slot = life.read(tokens_of(1, 64));
  store.save("b-2", {tokens_of(1, 64), "[]"}, slot);
  store.save("a", {tokens_of(1, 1000), "[]"}, slot);
  folder.write("notes.txt", "not ours");
  folder.write(".hidden.session", "nor this");
  folder.write("torn.session", "LINNETST");
  std::filesystem::create_directory(folder / "folder.session");
  const timespec times[2] = {{1000, 0}, {1700000000, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, (folder / "a.session").c_str(), times, 0), 0);

  const std::vector<SessionInfo> all = store.list();
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].name, "a");
  EXPECT_EQ(all[0].tokens, 1000);
  EXPECT_EQ(all[0].state_tokens, 64);
  EXPECT_EQ(all[0].bytes, std::filesystem::file_size(folder / "a.session"));
  EXPECT_EQ(all[0].time, 1700000000);
  EXPECT_EQ(all[0].defect, "");
  EXPECT_EQ(all[1].name, "b-2");
  EXPECT_THAT(all[2].defect, HasSubstr("torn.session: expected a state file of at least"));

  EXPECT_TRUE(store.has("a"));
  EXPECT_TRUE(store.remove("a"));
  EXPECT_FALSE(store.has("a"));
  EXPECT_FALSE(store.remove("a"));
  EXPECT_TRUE(store.remove("torn"));
  EXPECT_THROW(store.remove("folder"), IoError);
  EXPECT_EQ(error_of<InvalidArgument>([&] { store.open("a"); }), "session a: there is none of that name");
  EXPECT_EQ(store.list().size(), 1u);
}

TEST(session_store, names_are_no_paths) {
  const ScratchFolder folder;
  folder.write("secret.session", "x");
  const SessionStore store(folder / "inside");
  Life life;
  const StateSlot slot = life.read(tokens_of(1, 64));
  const std::string long_name(65, 'a'), zero("a\0b", 3);
  for (const std::string& name :
       {std::string(), std::string("."), std::string(".."), std::string("../secret"), std::string("/secret"),
        std::string("a/b"), std::string("a\\b"), std::string(".a"), std::string("-a"), std::string("_a"),
        std::string("a b"), std::string("ä"), std::string("a\n"), long_name, zero}) {
    SCOPED_TRACE(printable(name, 80));
    EXPECT_THAT(error_of<InvalidArgument>([&] { store.save(name, {tokens_of(1, 64), ""}, slot); }), HasSubstr("name"));
    EXPECT_THROW(store.open(name), InvalidArgument);
    EXPECT_THROW(store.has(name), InvalidArgument);
    EXPECT_THROW(store.remove(name), InvalidArgument);
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "inside"));
  EXPECT_EQ(folder.n_files(), 1u);
  for (const std::string& name : {std::string("a"), std::string("2026-01-01_a.b.session"), std::string(64, 'Z')})
    store.save(name, {tokens_of(1, 64), ""}, slot);
  EXPECT_EQ(store.list().size(), 3u);
}

TEST(session_store, only_canonical_states_are_saved) {
  const ScratchFolder folder;
  const SessionStore store(folder.path());
  Life life;
  const Tokens tokens = tokens_of(1, 200);
  const Session session{tokens, ""};
  EXPECT_THROW(store.save("a", session, life.engine.new_slot()), InvalidArgument);
  EXPECT_THAT(error_of<InvalidArgument>([&] { store.save("a", session, life.read(std::span(tokens).first(100))); }),
              HasSubstr("expected a state of a multiple of 64 of its 200 tokens, got one of 100"));
  EXPECT_THROW(store.save("a", {tokens_of(1, 127), ""}, life.read(std::span(tokens).first(128))), InvalidArgument);
  StateSlot tentative = life.engine.new_slot();
  const Append request{
      .slot = &tentative, .tokens = std::span(tokens).first(64), .tentative = true, .want = Want::nothing};
  life.engine.append({&request, 1}, [](size_t, int64_t, Tensor) {});
  EXPECT_THROW(store.save("a", session, tentative), InvalidArgument);
  life.keep(tokens_of(2, 64));
  EXPECT_THROW(life.save(store, "a", session), InvalidArgument);  // none of its tokens
  EXPECT_THROW(store.save("a", {tokens, "\xff"}, life.read(std::span(tokens).first(64))), InvalidArgument);
  EXPECT_EQ(folder.n_files(), 0u);
}

// A program that saves one session and another in turn under one name is killed in the middle, again and again: there is always one of
// the two, whole.
TEST(session_store, a_killed_save_leaves_a_whole_session) {
  const LayerSpecs specs = {{{"rows", DType::f32, {400}, model::Lifetime::per_token},
                             {"sum", DType::f32, {50000}, model::Lifetime::per_sequence}}};
  const ScratchFolder folder;
  const SessionStore store(folder.path());
  StatePool pool(specs, "m");
  const auto state = [&](int fill) {
    StateSlot slot(pool);
    const auto& layers = slot.begin_append(tokens_of(1, 128), false);
    std::memset(layers[0][1].data, fill, 200000);
    for (int64_t j = 0; j < 128; ++j) std::memset(layers[0][0].row(j, 1600), fill, 1600);
    slot.end_append();
    return slot;
  };
  const StateSlot states[2] = {state(1), state(2)};
  const Session sessions[2] = {{tokens_of(1, 128), "first"}, {tokens_of(2, 130), "second"}};
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  store.save("a", sessions[0], states[0]);
  const Clock::duration one_save = Clock::now() - start;
  constexpr int kLives = 25;
  for (int life = 0; life < kLives; ++life) {
    int told[2];
    ASSERT_EQ(pipe(told), 0);
    const pid_t child = fork();
    if (child == 0) {
      for (int i = 0;; i = 1 - i) {
        if (write(told[1], "x", 1) != 1) _exit(1);
        store.save("a", sessions[i], states[i]);
      }
    }
    ASSERT_GT(child, 0);
    close(told[1]);
    char byte;
    for (int saves = 0; saves <= life % 4; ++saves) ASSERT_EQ(read(told[0], &byte, 1), 1);
    for (const auto now = Clock::now(); Clock::now() < now + one_save * life / kLives;) {}
    kill(child, SIGKILL);  // while it saves, early or late
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status));
    close(told[0]);
    const SessionStore::Saved saved = store.open("a");
    StateSlot slot(pool);
    slot.import_from(saved.file);
    const int which = saved.session.messages == "second";
    EXPECT_EQ(saved.session.tokens, sessions[which].tokens);
    const std::span<const StateBlock> got = slot.blocks(), want = states[which].blocks();
    for (size_t i = 0; i < 2; ++i) EXPECT_EQ(std::memcmp(got[i].data(), want[i].data(), pool.block_bytes()), 0);
    EXPECT_EQ(std::memcmp(slot.copy_of_sequence().data(), states[which].copy_of_sequence().data(), 200000), 0);
    EXPECT_EQ(store.list().size(), 1u);
  }
}

// The file's own text, each refusal one line that begins with its path; nothing enters the cache.
struct Refusals : testing::Test {
  ScratchFolder folder;
  SessionStore store{folder.path()};
  Life life;
  std::string good = [&] {
    store.save("a", {tokens_of(1, 70), kMessages}, life.read(tokens_of(1, 64)));
    return formats::contents(folder / "a.session");
  }();

  std::string refusal(const std::string& bytes) {
    folder.write("a.session", bytes);
    const std::string text = error_of<FormatError>([&] { load(store, "a", life.cache); });
    EXPECT_THAT(text, testing::StartsWith((folder / "a.session").string() + ": "));
    EXPECT_EQ(text.find('\n'), std::string::npos);
    EXPECT_EQ(life.cache.stats().blocks, 0);
    EXPECT_EQ(life.engine.states().bytes(), 0u);
    return text;
  }
};

TEST_F(Refusals, truncated_anywhere) {
  for (size_t n = 0; n < good.size(); n += n < 2000 ? 7 : 997) refusal(good.substr(0, n));
  refusal(good.substr(0, good.size() - 1));
  refusal(good + "x");
  EXPECT_EQ(store.list().size(), 1u);
  EXPECT_NE(store.list()[0].defect, "");
}

TEST_F(Refusals, one_bit_wrong_anywhere) {
  for (size_t at = 0; at < good.size(); at += at < 1000 ? 13 : 1009) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << at % 8));
    refusal(bytes);
  }
}

TEST_F(Refusals, of_another_model_or_no_session_at_all) {
  Engine other(kData + "tiny-fp32", {.threads = 1, .load = {.cache_dtype = DType::bf16}});
  PrefixCache cache(other.states(), size_t{16} << 20);
  folder.write("a.session", good);
  EXPECT_THAT(error_of<FormatError>([&] { load(store, "a", cache); }), HasSubstr("a state of another model"));
  EXPECT_EQ(cache.stats().blocks, 0);

  const auto with_notes = [&](std::map<std::string, std::string> notes, size_t state_tokens = 64) {
    life.read(tokens_of(1, state_tokens)).export_to(folder / "other", notes);
    return refusal(formats::contents(folder / "other"));
  };
  const std::string ids = "1 2 3";
  std::string many = "5";
  for (int i = 1; i < 64; ++i) many += " 5";
  EXPECT_THAT(with_notes({}), HasSubstr("session.tokens"));
  EXPECT_THAT(with_notes({{"session.tokens", many}}), HasSubstr("session.messages"));
  EXPECT_THAT(with_notes({{"session.tokens", ids}, {"session.messages", ""}}), HasSubstr("of the session's 3 tokens"));
  EXPECT_THAT(with_notes({{"session.tokens", many + " 1"}, {"session.messages", ""}}, 65), HasSubstr("got one of 65"));
  for (const char* bad : {" -1", " x", " 99999999999", "  1", " ", ",1"})
    EXPECT_THAT(with_notes({{"session.tokens", many + bad}, {"session.messages", ""}}),
                HasSubstr("expected token ids"));
  EXPECT_THAT(refusal("hello"), HasSubstr("state file"));
}

TEST_F(Refusals, a_full_disk_leaves_the_old_session) {
  const Tokens longer = tokens_of(2, 640);
  const StateSlot slot = life.read(longer);
  {
    const FullDisk full(good.size());
    EXPECT_THROW(store.save("a", {longer, "new"}, slot), IoError);
    EXPECT_THROW(store.save("b", {longer, "new"}, slot), IoError);
  }
  EXPECT_EQ(folder.n_files(), 1u);
  EXPECT_TRUE(formats::contents(folder / "a.session") == good);
  EXPECT_EQ(load(store, "a", life.cache).messages, kMessages);
  store.save("a", {longer, "new"}, slot);
  EXPECT_EQ(load(store, "a", life.cache).messages, "new");
}

TEST_F(Refusals, no_memory_leaves_the_cache) {
  life.engine.states().set_limit(life.engine.states().sequence_bytes());
  EXPECT_THROW(load(store, "a", life.cache), OutOfMemory);
  EXPECT_EQ(life.engine.states().bytes(), 0u);
  life.engine.states().set_limit(SIZE_MAX);
  EXPECT_EQ(load(store, "a", life.cache).tokens, tokens_of(1, 70));
}

}  // namespace
}  // namespace linnet::runtime
