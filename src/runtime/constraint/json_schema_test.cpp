// Schemas: whatever tokens are drawn, the text parses and validates; what cannot be guaranteed is refused by name.
#include "runtime/constraint/json_schema.h"

#include <gmock/gmock.h>

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "core/errors.h"
#include "core/text.h"
#include "formats/file_test_support.h"
#include "formats/utf8.h"
#include "runtime/constraint/constraint_test_support.h"

namespace linnet::runtime {
namespace {

using formats::error_of;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

// An independent validator of the supported keywords; any number of them may stand together.
bool valid(const json& value, const json& schema, const json& root) {
  if (schema.is_boolean()) return schema.get<bool>();
  const auto any_of = [&](const json& schemas) {
    return std::any_of(schemas.begin(), schemas.end(), [&](const json& s) { return valid(value, s, root); });
  };
  if (schema.contains("$ref")) {
    const json& target = root.at(json::json_pointer(schema["$ref"].get<std::string>().substr(1)));
    static std::set<std::pair<const json*, const json*>> open;  // what leads to itself proves nothing
    const auto [pair, fresh] = open.insert({&value, &target});
    const bool holds = fresh && valid(value, target, root);
    if (fresh) open.erase(pair);
    if (!holds) return false;
  }
  for (const char* k : {"anyOf", "oneOf"})
    if (schema.contains(k) && !any_of(schema[k])) return false;
  if (schema.contains("const") && value != schema["const"]) return false;
  if (schema.contains("enum") && std::find(schema["enum"].begin(), schema["enum"].end(), value) == schema["enum"].end())
    return false;
  if (schema.contains("type")) {
    const auto is = [&](const std::string& type) {
      if (type == "integer") return value.is_number_integer();
      return type == (value.is_number() ? "number" : value.type_name());
    };
    const json types = schema["type"].is_array() ? schema["type"] : json::array({schema["type"]});
    if (std::none_of(types.begin(), types.end(), [&](const json& t) { return is(t.get<std::string>()); })) return false;
  }
  const auto within = [&](size_t n, const char* low, const char* high) {
    return n >= schema.value(low, size_t{0}) && n <= schema.value(high, SIZE_MAX);
  };
  if (value.is_number())
    return (!schema.contains("minimum") || value >= schema["minimum"]) &&
           (!schema.contains("maximum") || value <= schema["maximum"]) &&
           (!schema.contains("exclusiveMinimum") || value > schema["exclusiveMinimum"]) &&
           (!schema.contains("exclusiveMaximum") || value < schema["exclusiveMaximum"]);
  if (value.is_string()) {
    size_t characters = 0;
    for (char c : value.get_ref<const std::string&>()) characters += (c & 0xc0) != 0x80;
    return within(characters, "minLength", "maxLength");
  }
  if (value.is_array())
    return within(value.size(), "minItems", "maxItems") &&
           std::all_of(value.begin(), value.end(),
                       [&](const json& item) { return valid(item, schema.value("items", json(true)), root); });
  if (!value.is_object()) return true;
  for (const json& name : schema.value("required", json::array()))
    if (!value.contains(name.get<std::string>())) return false;
  const json properties = schema.value("properties", json::object());
  for (const auto& [name, member] : value.items())
    if (!valid(member, properties.contains(name) ? properties[name] : schema.value("additionalProperties", json(true)),
               root))
      return false;
  return true;
}

// Draws small schemas of everything that is supported.
struct SchemaMaker {
  Rng rng;
  uint64_t below(uint64_t n) { return rng.bits() % n; }
  bool chance() { return below(2) == 0; }

  json constant() {
    const std::vector<json> some = {
        "", "a", "ab", "name", "é\"\\\n", 0, -1, 27, 1.5, true, nullptr, json::array({1, "a"}), json({{"a", {1}}})};
    return some[below(some.size())];
  }
  json make(int depth) {
    switch (below(depth > 0 ? 11 : 7)) {
      case 0: return {{"type", "boolean"}, {"title", "a flag"}};
      case 1: return ranged({{"type", chance() ? "number" : "integer"}});
      case 2: return bounded({{"type", "string"}}, "minLength", "maxLength");
      case 3: return {{"const", constant()}};
      case 4: return {{"enum", {constant(), constant(), constant()}}};
      case 5: return {{"type", {"null", "integer", "string"}}};
      case 6: return chance() ? json(true) : json({{"$ref", "#/$defs/other"}});
      case 7: return bounded({{"type", "array"}, {"items", make(depth - 1)}}, "minItems", "maxItems");
      case 8: return {{chance() ? "anyOf" : "oneOf", {make(depth - 1), make(depth - 1)}}};
      default: return object(depth);
    }
  }
  json bounded(json schema, const char* low, const char* high) {
    const uint64_t least = below(4);
    if (chance()) schema[low] = least;
    if (chance()) schema[high] = least + below(3);
    return schema;
  }
  json ranged(json schema) {
    const auto number = [&] {
      const auto whole = static_cast<int64_t>(rng.bits() >> (5 + below(59))) * (chance() ? 1 : -1);
      return chance() ? json(whole) : json(static_cast<double>(whole) / (chance() ? 8 : 1000));
    };
    json low = number(), high = number();
    if (low > high) std::swap(low, high);
    if (chance()) schema[chance() ? "minimum" : "exclusiveMinimum"] = low;
    if (chance()) schema[chance() ? "maximum" : "exclusiveMaximum"] = high;
    return schema;
  }
  json object(int depth) {
    json schema = {{"type", "object"}};
    if (chance()) schema["additionalProperties"] = chance() ? json(chance()) : make(depth - 1);
    const bool others = !schema.contains("additionalProperties") || schema["additionalProperties"] != false;
    for (const char* name : {"a", "ab", "name", "é", "\"q\"", ""}) {
      if (chance()) continue;
      if (chance() || !others) schema["properties"][name] = make(depth - 1);
      if (chance() && (others || schema["properties"].contains(name))) schema["required"].push_back(name);
    }
    return schema;
  }
};

// Draws uniformly from the allowed tokens until the text has to end.
std::string draw(Constraint constraint, Rng& rng, int64_t tokens) {
  std::string text;
  for (int64_t left = tokens - 1; !constraint.must_end(); --left) {
    const std::vector<int32_t> ids = allowed(constraint, std::max<int64_t>(left, 0));
    if (ids.empty()) return text + " <- dead end";
    const int32_t id = ids[rng.bits() % ids.size()];
    if (id != end_id()) text += json_tokenizer().bytes_of(id);
    constraint.accept(id);
    if (left < -1000) return text + " <- no end";
  }
  return text;
}

TEST(JsonSchema, every_text_of_a_random_schema_is_valid) {
  int n_texts = 0, n_members = 0;
  for (uint64_t seed = 0; seed < 250; ++seed) {
    SchemaMaker maker{Rng(seed)};
    json schema = maker.object(3);
    schema["$defs"]["other"] = maker.make(2);
    std::optional<Constraint> start;
    try {
      start = schema_constraint(schema.dump());
    } catch (const FormatError& e) {  // as a $ref to itself, or required members without a value
      EXPECT_THAT(e.what(), HasSubstr("got one that allows none")) << schema;
      continue;
    } catch (const Unsupported& e) {
      EXPECT_THAT(e.what(), HasSubstr("expected a bound that numbers of 15 digits keep")) << schema;
      continue;
    }
    for (uint64_t trial = 0; trial < 4; ++trial, ++n_texts) {
      Rng rng(seed, trial);
      const std::string text = draw(*start, rng, 20 + static_cast<int64_t>(trial) * 30);
      const json value = json::parse(text, nullptr, false);
      ASSERT_FALSE(value.is_discarded()) << "seed " << seed << "\n" << schema << "\n" << text;
      ASSERT_TRUE(valid(value, schema, schema)) << "seed " << seed << "\n" << schema << "\n" << text;
      n_members += static_cast<int>(value.size());
    }
  }
  EXPECT_GT(n_texts, 800);
  EXPECT_GT(n_members, n_texts);
}

bool allows(const std::string& schema, const std::string& text) {
  try {
    return after(schema_constraint(schema), text).may_end();
  } catch (const InvalidArgument&) { return false; }
}

TEST(JsonSchema, allows_what_it_should) {
  const std::string object =
      R"({"properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {}}, "required": ["b"]})";
  EXPECT_TRUE(allows(object, R"({"a": 1, "b": "x", "c": [null]})"));
  EXPECT_TRUE(allows(object, R"({"b":""})"));
  EXPECT_FALSE(allows(object, R"({"a": 1})"));
  EXPECT_FALSE(allows(object, R"({"b": "", "a": 1})"));  // the schema's order
  EXPECT_FALSE(allows(object, R"({"b": "", "d": 1})"));  // listed properties only, unless asked for
  const std::string open =
      R"({"properties": {"ab": {"const": 1}, "é": false}, "required": ["z"], "additionalProperties": {"type": "null"}})";
  EXPECT_TRUE(allows(open, R"({"ab": 1, "z": null, "a": null, "abc": null, "è": null, "": null})"));
  EXPECT_FALSE(allows(open, R"({"ab": null, "z": null})"));
  EXPECT_FALSE(allows(open, R"({"z": null, "ab": null})"));
  EXPECT_FALSE(allows(open, R"({"z": null, "é": null})"));
  EXPECT_FALSE(allows(open, R"({"z": null, "\u0061b": null})"));
  EXPECT_FALSE(allows(open, R"({"a": null})"));
  EXPECT_TRUE(allows(R"({"type": ["string", "null"], "maxLength": 2})", "null"));
  EXPECT_TRUE(allows(R"({"type": "string", "maxLength": 2})", R"("\ud83d\ude00é")"));
  EXPECT_FALSE(allows(R"({"type": "string", "maxLength": 2})", R"("abc")"));
  EXPECT_TRUE(allows(R"({"minItems": 2, "items": {"type": "integer"}})", "[1, -2, 3]"));
  EXPECT_FALSE(allows(R"({"minItems": 2})", "[1]"));
  EXPECT_TRUE(allows(R"({"maxItems": 0})", "[]"));
  EXPECT_FALSE(allows(R"({"maxItems": 0})", "[1]"));
  EXPECT_TRUE(allows(R"({"enum": ["a", 1, 12], "type": "integer"})", "12"));
  EXPECT_FALSE(allows(R"({"enum": ["a", 1, 12], "type": "integer"})", "\"a\""));
  EXPECT_FALSE(allows(R"({"type": "integer"})", "01"));
  EXPECT_FALSE(allows(R"({"type": "integer"})", "1.0"));
  EXPECT_TRUE(allows(R"({"anyOf": [{"$ref": "#"}, {"type": "null"}]})", "null"));
  const std::string tree =
      R"({"$defs": {"t": {"properties": {"l": {"$ref": "#/$defs/t"}, "r": {"$ref": "#/$defs/t"}}}}, "$ref": "#/$defs/t"})";
  EXPECT_TRUE(allows(tree, R"({"l": {"r": {}}, "r": {}})"));
}

TEST(JsonSchema, refusals_name_the_keyword_and_its_place) {
  const std::vector<std::pair<const char*, const char*>> unsupported = {
      {R"({"properties": {"a": {"type": "string", "pattern": "x"}}})",
       "test: #/properties/a/pattern: keyword that cannot be guaranteed here; supported: type, minLength, maxLength"},
      {R"({"type": "number", "multipleOf": 2})", "#/multipleOf: keyword that cannot be guaranteed here"},
      {R"({"type": "integer", "minimum": 0, "multipleOf": 2})", "#/multipleOf: "},
      {R"({"type": "string", "minimum": 0})", "#/minimum: "},
      {R"({"type": "integer", "minimum": 1000000000000000000})",
       "#/minimum: expected a bound that numbers of 18 digits keep, got 1000000000000000000"},
      {R"({"type": "number", "exclusiveMaximum": -1e15})", "#/exclusiveMaximum: expected a bound that numbers of 15"},
      {R"({"items": {"format": "date"}})", "#/items/format: "},
      {R"({"anyOf": [{}], "type": "object"})", "#/type: "},
      {R"({"const": 1, "enum": [1]})", "#/enum: "},
      {R"({"$ref": "#", "minItems": 1})", "#/minItems: "},
      {R"({"uniqueItems": true})", "#/uniqueItems: "},
      {R"({"type": "null", "properties": {}})", "#/properties: "}};
  for (const auto& [schema, message] : unsupported)
    EXPECT_THAT(error_of<Unsupported>([&, s = schema] { json_schema_grammar(s, "test"); }), HasSubstr(message));
  const std::vector<std::pair<const char*, const char*>> malformed = {
      {"[]", "test: #: expected a schema"},
      {"{", "test: schema: byte 1: expected JSON, got "},
      {R"({"type": "strin"})", "#/type: expected one or several of"},
      {R"({"type": []})", "#/type: "},
      {R"({"minItems": -1})", "#/minItems: expected an integer that is not negative, got -1"},
      {R"({"properties": []})", "#/properties: "},
      {R"({"required": ["a"], "additionalProperties": false})", "#/required: expected names of properties"},
      {R"({"$ref": "http://x/y"})", "#/$ref: expected a reference into this schema"},
      {R"({"$ref": "#/$defs/x"})", "#/$ref: expected a reference to something"},
      {R"({"$ref": "#/title", "title": "t"})", "#/title: expected a schema"},
      {R"({"anyOf": []})", "#/anyOf: "},
      {R"({"enum": []})", "got one that allows none"},
      {R"({"$ref": "#"})", "got one that allows none"},
      {R"({"minLength": 3, "maxLength": 2})", "got one that allows none"},
      {R"({"minimum": 1, "maximum": 0})", "got one that allows none"},
      {R"({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 4})", "got one that allows none"},
      {R"({"exclusiveMinimum": -2.5, "maximum": -2.5})", "got one that allows none"},
      {R"({"minimum": "1"})", "#/minimum: expected a number, got \"1\""},
      {R"({"minimum": 1, "exclusiveMinimum": true})", "#/exclusiveMinimum: expected a number, got true"},
      {R"({"properties": {"a": {"$ref": "#"}}, "required": ["a"]})", "got one that allows none"},
      {R"({"type": "null", "type": "null"})", "\"type\": expected one such key"}};
  for (const auto& [schema, message] : malformed)
    EXPECT_THAT(error_of<FormatError>([&, s = schema] { json_schema_grammar(s, "test"); }), HasSubstr(message));
}

TEST(JsonSchema, bombs_are_refused_quickly) {
  std::string deep, wide = "{\"properties\":{", named = "{\"enum\":[0";
  for (int i = 0; i < 20000; ++i) deep += "{\"items\":";
  for (int i = 0; i < 5000; ++i) wide += cat(i ? "," : "", "\"p", i, "\":{}");
  std::string objects = "{\"enum\":[0";
  for (int i = 0; i < 80000; ++i) objects += ",{}";
  for (int i = 0; i < 8000; ++i) named += cat(",\"", mix64(static_cast<uint64_t>(i)), "\"");
  json doubling = {{"$ref", "#/$defs/0"}};
  for (int i = 0; i < 60; ++i) {
    const json next = i < 59 ? json({{"$ref", cat("#/$defs/", i + 1)}}) : json({{"type", "null"}});
    doubling["$defs"][std::to_string(i)] = {{"items", next}, {"minItems", 2}};
  }
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& schema :
       {deep, wide + "}}", named + "]}", std::string(R"({"maxLength": 4000000000})"),
        std::string(R"({"items": {"maxItems": 60000}, "minItems": 60000})"), std::string(kMaxSchemaBytes + 1, ' ')})
    EXPECT_THAT(error_of<Unsupported>([&] { json_schema_grammar(schema, "test"); }),
                AllOf(StartsWith("test: "), HasSubstr("expected ")))
        << schema.substr(0, 60);
  EXPECT_NO_THROW(json_schema_grammar(objects + "]}", "test"));  // one value, many times
  EXPECT_THAT(error_of<FormatError>([&] { json_schema_grammar(doubling.dump(), "test"); }), HasSubstr("allows none"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

// Each level of brackets doubles the ways to read them: only so many are kept, and what is said stays valid.
TEST(JsonSchema, ambiguity_stays_bounded) {
  const json schema = json::parse(
      R"({"anyOf": [{"items": {"$ref": "#"}, "maxItems": 3}, {"items": {"$ref": "#"}, "maxItems": 2}, {"type": "null"}]})");
  Constraint constraint = after(schema_constraint(schema.dump()), std::string(30, '['));
  Rng rng(1);
  const std::string text = std::string(30, '[') + draw(constraint, rng, 60);
  EXPECT_TRUE(valid(json::parse(text), schema, schema)) << text;
}

}  // namespace
}  // namespace linnet::runtime
