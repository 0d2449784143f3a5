// JsonFields: each getter's values and refusals, what was not asked for, and text that is not quite JSON.
#include "formats/json_fields.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/text.h"
#include "formats/file_test_support.h"

namespace linnet::formats {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

JsonFields parsed(std::string_view text) { return JsonFields::parse(text, "c.json"); }
template <class Body>
std::string refusal(Body body) {
  return error_of<FormatError>(body);
}

TEST(json_fields, typed_values) {
  const JsonFields f = parsed(R"({"i": 7, "e": 1e3, "neg": -3, "n": 0.5, "b": true, "s": "caf\u00e9", "is": [1, 2],
                                  "ss": ["a", "b"], "o": {"x": 1}, "os": [{"x": 1}, {"x": 2}], "z": null, "none": []})");
  EXPECT_EQ(f.integer("i", 0, 7), 7);
  EXPECT_EQ(f.integer("e", 0, 1000), 1000);
  EXPECT_EQ(f.integer("neg", -3, 0), -3);
  EXPECT_EQ(f.number("n", 0, 1), 0.5);
  EXPECT_EQ(f.number("i", 7, 7), 7);
  EXPECT_TRUE(f.boolean("b"));
  EXPECT_EQ(f.string("s"), "caf\u00e9");
  EXPECT_THAT(f.integers("is", 1, 2), ElementsAre(1, 2));
  EXPECT_THAT(f.strings("ss"), ElementsAre("a", "b"));
  EXPECT_THAT(f.strings("none"), ElementsAre());
  EXPECT_EQ(f.object("o").integer("x", 0, 9), 1);
  EXPECT_EQ(f.objects("os").at(1).integer("x", 0, 9), 2);
  EXPECT_THAT(f.keys(), ElementsAre("b", "e", "i", "is", "n", "neg", "none", "o", "os", "s", "ss", "z"));
}

TEST(json_fields, absent_and_null_are_nothing) {
  const JsonFields f = parsed(R"({"z": null, "i": 7})");
  for (const char* key : {"z", "absent"}) {
    EXPECT_FALSE(f.has(key));
    EXPECT_FALSE(f.optional_integer(key, 0, 9));
    EXPECT_FALSE(f.optional_number(key, 0, 9));
    EXPECT_FALSE(f.optional_boolean(key));
    EXPECT_FALSE(f.optional_string(key));
    EXPECT_FALSE(f.optional_integers(key, 0, 9));
    EXPECT_FALSE(f.optional_strings(key));
    EXPECT_FALSE(f.optional_object(key));
  }
  EXPECT_TRUE(f.has("i"));
  EXPECT_EQ(f.optional_integer("i", 0, 9).value_or(3), 7);
  EXPECT_EQ(refusal([&] { f.integer("absent", 1, 9); }), "c.json: absent: expected integer in [1, 9], got nothing");
  EXPECT_EQ(refusal([&] { f.string("z"); }), "c.json: z: expected string, got null");
}

TEST(json_fields, kinds) {
  const JsonFields f = parsed(R"({"z": null, "b": false, "i": -7, "u": 7, "n": 0.5, "s": "", "a": [], "o": {}})");
  EXPECT_EQ(f.kind("absent"), JsonKind::absent);
  EXPECT_EQ(f.kind("z"), JsonKind::null);
  EXPECT_EQ(f.kind("b"), JsonKind::boolean);
  EXPECT_EQ(f.kind("i"), JsonKind::integer);
  EXPECT_EQ(f.kind("u"), JsonKind::integer);
  EXPECT_EQ(f.kind("n"), JsonKind::number);
  EXPECT_EQ(f.kind("s"), JsonKind::string);
  EXPECT_EQ(f.kind("a"), JsonKind::array);
  EXPECT_EQ(f.kind("o"), JsonKind::object);
}

TEST(json_fields, integers_are_range_checked) {
  const auto message = [](std::string_view value) {
    return refusal([&] { parsed(cat(R"({"a": {"b": )", value, "}}")).object("a").integer("b", 1, 65536); });
  };
  const std::string expected = "c.json: a.b: expected integer in [1, 65536], got ";
  EXPECT_EQ(message("1152921504606846976"), expected + "1152921504606846976");  // 2^60
  EXPECT_EQ(message("0"), expected + "0");
  EXPECT_EQ(message("-5"), expected + "-5");
  EXPECT_EQ(message("65537"), expected + "65537");
  EXPECT_EQ(message("18446744073709551615"), expected + "18446744073709551615");  // 2^64 - 1
  EXPECT_EQ(message("1.5"), expected + "1.5");
  EXPECT_EQ(message("1e300"), expected + "1e+300");
  EXPECT_EQ(message("\"7\""), expected + "\"7\"");
  EXPECT_EQ(message("true"), expected + "true");
  EXPECT_EQ(message("[1]"), expected + "an array of 1");
  EXPECT_EQ(message("{}"), expected + "an object of 0");
  const JsonFields wide =
      parsed(R"({"low": -9223372036854775808, "high": 9223372036854775807, "over": 9223372036854775808,
                                     "exact": 9007199254740992.0, "inexact": 9007199254740994.0})");
  EXPECT_EQ(wide.integer("low", INT64_MIN, INT64_MAX), INT64_MIN);
  EXPECT_EQ(wide.integer("high", INT64_MIN, INT64_MAX), INT64_MAX);
  EXPECT_THROW(wide.integer("over", INT64_MIN, INT64_MAX), FormatError);
  EXPECT_EQ(wide.integer("exact", INT64_MIN, INT64_MAX), int64_t{1} << 53);
  EXPECT_THROW(wide.integer("inexact", INT64_MIN, INT64_MAX),
               FormatError);  // 2^53 + 2: not every neighbour is a double
}

TEST(json_fields, other_types_are_checked) {
  const JsonFields f = parsed(R"({"n": 1.5, "s": "a\nb", "i": [1, 2, 99], "ss": ["a", 1], "os": [{}, 1]})");
  EXPECT_EQ(refusal([&] { f.number("n", 0, 1); }), "c.json: n: expected number in [0, 1], got 1.5");
  EXPECT_EQ(refusal([&] { f.number("s", -INFINITY, INFINITY); }), "c.json: s: expected finite number, got \"a\\x0ab\"");
  EXPECT_EQ(refusal([&] { f.boolean("n"); }), "c.json: n: expected true or false, got 1.5");
  EXPECT_EQ(refusal([&] { f.string("n"); }), "c.json: n: expected string, got 1.5");
  EXPECT_EQ(refusal([&] { f.integers("i", 0, 9); }), "c.json: i[2]: expected integer in [0, 9], got 99");
  EXPECT_EQ(refusal([&] { f.integers("n", 0, 9); }), "c.json: n: expected array of integer in [0, 9], got 1.5");
  EXPECT_EQ(refusal([&] { f.strings("ss"); }), "c.json: ss[1]: expected string, got 1");
  EXPECT_EQ(refusal([&] { f.object("ss"); }), "c.json: ss: expected object, got an array of 2");
  EXPECT_EQ(refusal([&] { f.objects("os"); }), "c.json: os[1]: expected object, got 1");
  EXPECT_EQ(std::string(f.error("n", "\"silu\"").what()), "c.json: n: expected \"silu\", got 1.5");
  EXPECT_EQ(f.place("n"), "c.json: n");
}

TEST(json_fields, what_was_not_asked_for_is_listed) {
  const JsonFields f =
      parsed(R"({"a": 1, "b": {"x": 1, "y": 2}, "c": [{"p": 1}, {"q": 2}], "d": {"w": 1}, "e": null, "g": 1})");
  EXPECT_THAT(f.unread_keys(), ElementsAre("a", "b", "c", "d", "e", "g"));
  f.integer("a", 0, 9);
  f.object("b").integer("y", 0, 9);
  f.objects("c").at(0).integer("p", 0, 9);
  f.ignore("d");
  f.optional_integer("e", 0, 9);
  f.has("g"), f.kind("g");
  EXPECT_THAT(f.unread_keys(), ElementsAre("b.x", "c[1].q", "g"));
  EXPECT_THAT(f.object("b").unread_keys(), ElementsAre("x"));
  EXPECT_EQ(refusal([&] { f.object("b").refuse_unread_keys(); }), "c.json: b.x: unknown key");
  EXPECT_EQ(refusal([&] { f.refuse_unread_keys(); }), "c.json: b.x: unknown key");
  f.object("b").ignore("x");
  EXPECT_EQ(refusal([&] { f.refuse_unread_keys(); }), "c.json: c[1].q: unknown key");
  f.objects("c").at(1).ignore("q");
  f.ignore("g");
  EXPECT_NO_THROW(f.refuse_unread_keys());
}

TEST(json_fields, an_object_outlives_its_document) {
  JsonFields inner = parsed(R"({"a": {"x": 1}})").object("a");
  EXPECT_EQ(inner.integer("x", 0, 9), 1);
}

TEST(json_fields, text_that_is_not_an_object) {
  EXPECT_EQ(refusal([] { parsed("[]"); }), "c.json: expected a JSON object, got an array of 0");
  EXPECT_EQ(refusal([] { parsed("null"); }), "c.json: expected a JSON object, got null");
  for (const char* text :
       {"", " ", "{", "{]", "{\"a\"}", "{\"a\": }", "{\"a\": 1,}", "{\"a\": 1} x", "{'a': 1}", "{\"a\": NaN}",
        "{\"a\": 01}", "{\"a\": \"\xff\"}", "{\"a\": \"\\ud800\"}", "{\"a\": \"\n\"}", "{} // x"})
    EXPECT_THAT(refusal([&] { parsed(text); }), StartsWith("c.json: byte ")) << text;
  EXPECT_THAT(refusal([] { parsed("{\"a\": tru}"); }), HasSubstr("c.json: byte 9: expected JSON, got syntax error"));
  EXPECT_THAT(refusal([] { parsed("{\"a\": 1e999}"); }), HasSubstr("c.json: expected JSON, got "));
  EXPECT_EQ(refusal([] { parsed(std::string_view("{}\0{}", 5)); }), "c.json: byte 2: expected JSON, got a NUL byte");
}

TEST(json_fields, keys_are_unique) {
  EXPECT_EQ(refusal([] { parsed(R"({"a": 1, "a": 1})"); }),
            "c.json: \"a\": expected one such key, got two in one object");
  EXPECT_EQ(refusal([] { parsed(R"({"b": [{"a": {"c": 1}, "\u0061": 2}]})"); }),
            "c.json: \"a\": expected one such key, got two in one object");
  EXPECT_NO_THROW(parsed(R"({"a": {"a": 1}, "b": {"a": 1}})"));
}

TEST(json_fields, depth_is_limited) {
  const auto nested = [](int levels) {  // levels in all, the object included
    return "{\"a\": " + std::string(static_cast<size_t>(levels) - 1, '[') +
           std::string(static_cast<size_t>(levels) - 1, ']') + "}";
  };
  EXPECT_NO_THROW(parsed(nested(JsonLimits().levels)));
  EXPECT_EQ(refusal([&] { parsed(nested(JsonLimits().levels + 1)); }),
            "c.json: expected at most 64 levels of nesting, got more");
  EXPECT_THROW(parsed("{\"a\": " + std::string(10'000'000, '[')), FormatError);
}

TEST(json_fields, reads_a_file) {
  const ScratchFolder folder;
  const auto path = folder.write("c.json", "{\"a\": 1}");
  EXPECT_EQ(JsonFields::read(path).integer("a", 0, 9), 1);
  EXPECT_EQ(refusal([&] { JsonFields::read(path, 7); }), path.string() + ": expected at most 7 B, got 8 B");
  EXPECT_THROW(JsonFields::read(folder / "absent"), IoError);
}

}  // namespace
}  // namespace linnet::formats
