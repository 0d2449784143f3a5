// Masks against brute force, forks, budgets, what ends and what does not.
#include "runtime/constraint/constraint.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "core/errors.h"
#include "runtime/constraint/constraint_test_support.h"

namespace linnet::runtime {
namespace {

using nlohmann::json;

// What closes the strings and brackets that a beginning of JSON leaves open.
std::string closers(const std::string& text, bool& in_string) {
  std::string out;
  in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') in_string = !in_string;
    else if (in_string) i += c == '\\';
    else if (c == '{' || c == '[') out.insert(out.begin(), c == '{' ? '}' : ']');
    else if ((c == '}' || c == ']') && !out.empty()) out.erase(0, 1);
  }
  return out;
}

// Looks for an object that begins with `text` by trying what may be missing; shares no idea with the grammar.
bool can_become_object(const std::string& text) {
  bool in_string = false;
  const std::string close = closers(text, in_string);
  std::vector<std::string> rests = {"",  "\":0", "\"",  ":0", "0",   "\"\":0", "rue", "ue",
                                    "e", "alse", "lse", "se", "ull", "ll",     "l"};
  if (in_string) {
    for (const char* start :
         {"\"",       "n",        "0",         "00",        "000",          "0000", "c00",      "dc00",
          "udc00",    "\\udc00",  "\x80",      "\x80\x80",  "\x80\x80\x80", "\x9f", "\x9f\x80", "\x90\x80\x80",
          "\xa0\x80", "0\\udc00", "00\\udc00", "000\\udc00"})
      for (const char* end : {"", "\"", "\":0"}) rests.push_back(std::string(start) + end);
  }
  for (const std::string& rest : rests) {
    const json parsed = json::parse(text + rest + close, nullptr, /*allow_exceptions=*/false);
    if (parsed.is_object()) return true;
  }
  return false;
}

TEST(Constraint, masks_of_objects_are_what_a_search_for_completions_finds) {
  for (const std::string before : {"",
                                   "{",
                                   "{\"",
                                   "{\"a\\",
                                   "{\"\\u",
                                   "{\"\\ud",
                                   "{\"\\ud83d",
                                   "{\"\\ud83d\\u",
                                   "{\"\xe4",
                                   "{\"\xed",
                                   "{\"\xf0\x9f",
                                   "{\"a\"",
                                   "{\"a\":",
                                   "{\"a\":-",
                                   "{\"a\":1",
                                   "{\"a\":0",
                                   "{\"a\":1.",
                                   "{\"a\":1e",
                                   "{\"a\":t",
                                   "{\"a\":[",
                                   "{\"a\":[1",
                                   "{\"a\":[1,",
                                   "{\"a\":{",
                                   "{\"a\":{}",
                                   "{\"a\":[[]]",
                                   "{\"a\":\"x",
                                   "{\"a\":1}"}) {
    const Constraint constraint = after(object_constraint(), before);
    const std::vector<int32_t> ids = allowed(constraint);
    const std::set<int32_t> in(ids.begin(), ids.end());
    for (int32_t id = 0; id < json_tokenizer().vocab_size(); ++id) {
      if (id >= 256 && static_cast<size_t>(id) % 4 != before.size() % 4) continue;  // the search is slow
      if (json_tokenizer().is_special(id)) {
        EXPECT_EQ(in.contains(id), id == end_id() && before == "{\"a\":1}") << id;
        continue;
      }
      const std::string token(json_tokenizer().bytes_of(id));
      if (token.find_first_of(" \t\n\r") != token.npos) continue;        // narrower than JSON: below
      if (before.ends_with("1e") && token.starts_with("127")) continue;  // and so are exponents
      if (token.find('\0') != token.npos) continue;                      // where the oracle's parser stops reading
      EXPECT_EQ(in.contains(id), can_become_object(before + token)) << before << " + " << token << " #" << id;
    }
  }
}

TEST(Constraint, masks_equal_accepting_each_token) {
  const char* const schema =
      R"({"properties": {"a": {"type": "string", "maxLength": 3}, "b": {"anyOf": [{"type": "number"}, {"enum": ["x", "xy", null]}]},
      "c": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}}, "required": ["b"], "additionalProperties": {"type": "boolean"}})";
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Constraint constraint = seed % 2 ? object_constraint() : schema_constraint(schema);
    Rng rng(seed);
    for (int step = 0; step < 25 && !constraint.must_end(); ++step) {
      const std::vector<int32_t> ids = allowed(constraint);
      std::vector<int32_t> accepted;
      for (int32_t id = 0; id < json_tokenizer().vocab_size(); ++id)
        if (accepts(constraint, id)) accepted.push_back(id);
      ASSERT_EQ(ids, accepted) << "seed " << seed << " step " << step;
      ASSERT_FALSE(ids.empty());
      constraint.accept(ids[rng.bits() % ids.size()]);
    }
  }
}

TEST(Constraint, ends_exactly_when_the_text_is_complete) {
  Constraint number = after(schema_constraint(R"({"type": "number"})"), "12");
  EXPECT_TRUE(number.may_end());
  EXPECT_FALSE(number.must_end());
  EXPECT_TRUE(accepts(number, end_id()));
  number = after(number, ".");
  EXPECT_FALSE(number.may_end());
  EXPECT_FALSE(accepts(number, end_id()));
  number = after(number, "5");
  number.accept(end_id());
  EXPECT_TRUE(number.must_end());
  EXPECT_TRUE(allowed(number).empty());
  EXPECT_FALSE(accepts(number, end_id()));
  const Constraint object = after(object_constraint(), "{\"a\":[]}");
  EXPECT_TRUE(object.must_end());
  EXPECT_EQ(allowed(object), std::vector<int32_t>{end_id()});
}

TEST(Constraint, a_refused_token_changes_nothing_and_forks_are_independent) {
  Constraint one = after(object_constraint(), "{\"a");
  Constraint two = one;
  EXPECT_THROW(one.accept('\n'), InvalidArgument);
  EXPECT_THROW(one.accept(-1), InvalidArgument);
  EXPECT_THROW(one.accept(end_id()), InvalidArgument);
  two = after(two, "\":1}");
  EXPECT_TRUE(two.must_end());
  EXPECT_EQ(one.shortest(), 4);  // ":0}
  EXPECT_TRUE(after(one, "b\":2}").must_end());
}

TEST(Constraint, white_space_and_digits_are_bounded) {
  const auto says = [](const std::string& text) {
    try {
      return after(object_constraint(), text).must_end();
    } catch (const InvalidArgument&) { return false; }
  };
  const std::string spaces(32, ' '), digits(16, '1');
  EXPECT_TRUE(says("{ \"a\": 1, \"b\":\n" + spaces + "2\n}"));
  EXPECT_FALSE(says("{\n" + spaces + " }"));
  EXPECT_FALSE(says("{  }"));
  EXPECT_FALSE(says("{\"a\" :1}"));
  EXPECT_TRUE(says("{\"a\":-" + digits + "." + digits + "e-99}"));
  EXPECT_FALSE(says("{\"a\":1" + digits + "}"));
  EXPECT_FALSE(says("{\"a\":1e100}"));
}

TEST(Constraint, nesting_ends_at_sixty_four_levels) {
  Constraint constraint = after(object_constraint(), "{\"a\":");
  const int32_t open = json_tokenizer().ranks().rank_of_byte('[');
  int levels = 1;
  for (; accepts(constraint, open); ++levels) constraint.accept(open);
  EXPECT_GE(levels, 60);
  EXPECT_LE(levels, 66);
  std::string close(static_cast<size_t>(levels - 1), ']');
  EXPECT_TRUE(after(constraint, close + "}").must_end());
}

TEST(Constraint, a_budget_is_kept_whenever_it_can_be) {
  const Constraint start = object_constraint();
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Constraint constraint = start;
    Rng rng(seed);
    const int64_t budget = 2 + static_cast<int64_t>(seed);  // tokens
    std::string text;
    for (int64_t left = budget - 1; !constraint.must_end(); --left) {
      ASSERT_GE(left, 0) << text;
      const std::vector<int32_t> ids = allowed(constraint, left);
      const int32_t id = ids.at(rng.bits() % ids.size());
      text += json_tokenizer().bytes_of(id);
      constraint.accept(id);
      ASSERT_LE(constraint.shortest(), left) << text;
    }
    EXPECT_TRUE(json::accept(text)) << text;
  }
  // One that cannot be kept forbids nothing.
  const Constraint word = schema_constraint(R"({"const": "abcdefgh"})");
  EXPECT_EQ(allowed(word, 2), allowed(word));
  std::vector<uint64_t> bits(start.n_words());
  EXPECT_TRUE(start.mask(bits, 1));
  EXPECT_FALSE(start.mask(bits, 1000));
  EXPECT_THROW(start.mask({bits.data(), bits.size() - 1}), InvalidArgument);
}

// Copies share what has been computed; threads that walk them at once find what one alone finds.
TEST(Constraint, CopiesWalkOnThreads) {
  const Constraint shared = schema_constraint(
      R"({"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}, "b": {"type": "number"}}, "required": ["a", "b"]})");
  const auto drawn = [&shared](uint64_t seed) {
    Rng rng(seed);
    Constraint c = shared;
    std::vector<int32_t> tokens;
    while (!c.must_end() && tokens.size() < 60) {
      const auto left = static_cast<int64_t>(60 - tokens.size());
      const std::vector<int32_t> ids = allowed(c, std::max(left, c.shortest()));
      tokens.push_back(ids.at(rng.bits() % ids.size()));
      c.accept(tokens.back());
    }
    return tokens;
  };
  constexpr size_t kThreads = 4;
  std::vector<std::vector<int32_t>> together(kThreads);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kThreads; ++i) threads.emplace_back([&, i] { together[i] = drawn(i); });
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < kThreads; ++i) EXPECT_EQ(together[i], drawn(i)) << i;
}

}  // namespace
}  // namespace linnet::runtime
