#include "formats/json_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>

#include "core/text.h"
#include "formats/json_fields.h"

namespace linnet::formats {
namespace {

std::string refusal(std::string_view text, const JsonLimits& limits) {
  try {
    check_json(text, "t", limits);
  } catch (const JsonLimitError& e) { return e.what(); }
  return "";
}

std::string many(std::string_view one, int n) {
  std::string text = "[";
  for (int i = 0; i < n; ++i) text += cat(i ? "," : "", one);
  return text + "]";
}

TEST(json_check, limits) {
  EXPECT_EQ(refusal("[[[]]]", {.levels = 3}), "");
  EXPECT_EQ(refusal("[[[]]]", {.levels = 2}), "t: expected at most 2 levels of nesting, got more");
  EXPECT_EQ(refusal(R"({"a":{"b":1,"c":1},"d":1})", {.members = 2}), "");
  EXPECT_EQ(refusal(R"([{"a":1,"b":1,"c":1}])", {.members = 2}),
            "t: expected at most 2 members of one object, got more");
  EXPECT_EQ(refusal(R"({"a":[1,2,3,"b",{}]})", {.parts = 5}), "");
  EXPECT_EQ(refusal(R"({"a":[1,2,3,"b",{}]})", {.parts = 4}),
            "t: expected at most 4 strings, keys, arrays and objects, got more");
  EXPECT_EQ(refusal("[1,-2,3.5,true,null]", {.values = 6}), "");
  EXPECT_EQ(refusal("[1,-2,3.5,true,null]", {.values = 5}), "t: expected at most 5 values, got more");
  EXPECT_THROW(check_json("[1", "t", {.values = 5}), FormatError);
}

// Processor time to read n of these, in any unit: the least of some runs.
std::clock_t reading_time(const char* one, int n) {
  const std::string text = cat("{\"a\":", many(one, n), ",\"b\":[{}]}");
  std::clock_t least = 0;
  for (int run = 0; run < 3; ++run) {
    const std::clock_t start = std::clock();
    EXPECT_EQ(JsonFields::parse(text, "t").objects("b").size(), 1u);
    EXPECT_EQ(json_member(text, {"b"}), "[{}]");
    const std::clock_t taken = std::clock() - start;
    least = run == 0 ? taken : std::min(least, taken);
  }
  return least;
}

// Eight times the length: linear time is eight times as much, quadratic 64 times.
TEST(json_check, long_texts_take_time_by_their_length) {
  for (const char* one : {"{}", "[]", "{\"a\":[{}]}"})
    EXPECT_LT(reading_time(one, 160'000), 24 * reading_time(one, 20'000)) << one;
}

TEST(json_check, members_as_they_are_written) {
  const std::string text =
      R"( { "x" : {"b": "}\\\"{", "a" : [1, {"a":2} , "]"] } , "\u0079" : -1.5e3 ,"z":true,"s":"","n":{} } )";
  EXPECT_NO_THROW(check_json(text, "t"));
  EXPECT_EQ(json_member(text, {"x", "a"}), R"([1, {"a":2} , "]"])");
  EXPECT_EQ(json_member(text, {"x"}), R"({"b": "}\\\"{", "a" : [1, {"a":2} , "]"] })");
  EXPECT_EQ(json_member(text, {"x", "b"}), R"("}\\\"{")");
  EXPECT_EQ(json_member(text, {"y"}), "-1.5e3");
  EXPECT_EQ(json_member(text, {"z"}), "true");
  EXPECT_EQ(json_member(text, {"s"}), "\"\"");
  EXPECT_EQ(json_member(text, {"n"}), "{}");
  for (const auto path : {std::initializer_list<std::string_view>{"w"}, {"x", "c"}, {"z", "a"}, {"n", "a"}, {"w", "a"}})
    EXPECT_EQ(json_member(text, path), "");
  EXPECT_EQ(json_member("\xef\xbb\xbf" + text, {"y"}), "-1.5e3");
  EXPECT_NO_THROW(check_json("\xef\xbb\xbf" + text, "t"));
  EXPECT_EQ(json_member("[1]", {"a"}), "");
  EXPECT_EQ(json_member("7", {}), "7");
}

}  // namespace
}  // namespace linnet::formats
