// Bounds of numbers: every number that can be written is allowed exactly if it keeps them.
#include "runtime/constraint/number_range.h"

#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/text.h"
#include "runtime/constraint/constraint_test_support.h"

namespace linnet::runtime {
namespace {

using nlohmann::json;

TEST(NumberRange, decimals) {
  for (const auto& [text, whole, fraction] :
       std::vector<std::tuple<const char*, const char*, const char*>>{{"0", "0", ""},
                                                                      {"-0.0", "0", ""},
                                                                      {"120", "120", ""},
                                                                      {"-1.50", "1", "5"},
                                                                      {"1e+3", "1000", ""},
                                                                      {"12.5E-3", "0", "0125"},
                                                                      {"1.25e1", "12", "5"},
                                                                      {"0.05e2", "5", ""}}) {
    const Decimal d = Decimal::parse(text);
    EXPECT_EQ(d.whole, whole) << text;
    EXPECT_EQ(d.fraction, fraction) << text;
    EXPECT_EQ(d.negative, text == std::string("-1.50")) << text;
  }
  const std::vector<const char*> sorted = {"-1e9", "-12", "-3.25", "-3.2", "-0.1", "0",
                                           "0.01", "0.1", "9",     "10",   "1e9"};
  for (size_t i = 0; i < sorted.size(); ++i)
    for (size_t j = 0; j < sorted.size(); ++j)
      EXPECT_EQ(Decimal::parse(sorted[i]) < Decimal::parse(sorted[j]), i < j) << sorted[i] << " " << sorted[j];
}

bool writes(const Constraint& start, const std::string& text) {
  try {
    return after(start, text).may_end();
  } catch (const InvalidArgument&) { return false; }
}

// `schema` keeps its bounds for each of the texts, which are numbers; "-0" is never written.
void expect_exact(const json& schema, const std::vector<std::string>& texts) {
  const Constraint start = schema_constraint(schema.dump());
  for (const std::string& text : texts) {
    const json value = json::parse(text);
    bool wanted = text.find_first_of("123456789") != std::string::npos || text[0] != '-';
    if (schema.contains("minimum")) wanted = wanted && value >= schema["minimum"];
    if (schema.contains("maximum")) wanted = wanted && value <= schema["maximum"];
    if (schema.contains("exclusiveMinimum")) wanted = wanted && value > schema["exclusiveMinimum"];
    if (schema.contains("exclusiveMaximum")) wanted = wanted && value < schema["exclusiveMaximum"];
    ASSERT_EQ(writes(start, text), wanted) << schema << " " << text;
  }
}

TEST(NumberRange, small_integers) {
  std::vector<std::string> texts = {"-0"};
  for (int i = -120; i <= 120; ++i) texts.push_back(std::to_string(i));
  for (int i : {990, 998, 999, 1000, 1001, 1010, 1099, 1100, 2000, 9999, 10000})
    texts.push_back(std::to_string(i)), texts.push_back(std::to_string(-i));
  const std::vector<json> bounds = {-1000, -101, -12, -1, -0.5, 0, 1, 9, 10, 99.5, 100};
  for (const json& low : bounds)
    for (const json& high : bounds) {
      if (!(std::ceil(low.get<double>()) < std::floor(high.get<double>()))) continue;
      expect_exact({{"type", "integer"}, {"minimum", low}, {"maximum", high}}, texts);
      if (high.get<double>() - low.get<double>() > 2)
        expect_exact({{"type", "integer"}, {"exclusiveMinimum", low}, {"exclusiveMaximum", high}}, texts);
    }
  for (const json& bound : bounds)
    for (const char* keyword : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
      expect_exact({{"type", "integer"}, {keyword, bound}}, texts);
  expect_exact({{"type", "integer"}, {"minimum", 3}, {"exclusiveMinimum", 3}, {"maximum", 7}, {"exclusiveMaximum", 9}},
               texts);
  expect_exact({{"type", "integer"}, {"minimum", 4}, {"exclusiveMinimum", 3}, {"maximum", 7}, {"exclusiveMaximum", 7}},
               texts);
}

TEST(NumberRange, integers_around_large_bounds) {
  for (const int64_t bound : {int64_t{123456789012}, int64_t{-99999999999999999}, int64_t{100000000000000000},
                              int64_t{999999999999999998}, int64_t{-999999999999999998}}) {
    std::vector<std::string> texts;
    for (int64_t i = bound - 1; i <= bound + 1; ++i) texts.push_back(std::to_string(i));
    for (const int64_t other : {int64_t{0}, int64_t{7}, int64_t{-7}, bound / 10, -(bound / 10)})
      texts.push_back(std::to_string(other));
    for (const char* keyword : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
      expect_exact({{"type", "integer"}, {keyword, bound}}, texts);
  }
  const std::vector<std::string> all = {"0", "-1", "999999999999999999", "-999999999999999999"};
  expect_exact({{"type", "integer"}, {"minimum", INT64_MIN}, {"maximum", UINT64_MAX}}, all);
  expect_exact({{"type", "integer"}, {"minimum", -1e300}, {"exclusiveMaximum", 1e300}}, all);
  expect_exact({{"type", "integer"}, {"minimum", 999999999999999999}}, all);
}

TEST(NumberRange, other_numbers) {
  std::vector<std::string> texts;
  for (const char* digits : {"0",
                             "0.0",
                             "0.1",
                             "0.10",
                             "0.09",
                             "0.099999999999",
                             "0.100000000001",
                             "0.5",
                             "0.50",
                             "0.9",
                             "1",
                             "1.0",
                             "1.000000000001",
                             "1.05",
                             "1.4999",
                             "1.5",
                             "1.50000",
                             "1.51",
                             "2",
                             "3.25",
                             "9.99",
                             "10",
                             "10.5",
                             "99.5",
                             "100",
                             "100.0001",
                             "12345.678",
                             "99999999999999",
                             "0.00000000000001"})
    for (const char* sign : {"", "-"}) texts.push_back(cat(sign, digits));
  const std::vector<json> bounds = {-100, -10.5, -1.5, -1,  -0.1, 0,         1e-14, 0.1,
                                    0.5,  1,     1.05, 1.5, 10,   12345.678, 1e13,  0.1 + 0.2};
  for (const json& bound : bounds)
    for (const char* keyword : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
      expect_exact({{"type", "number"}, {keyword, bound}}, texts);
  for (const json& low : bounds)
    for (const json& high : bounds) {
      if (!(low < high)) continue;
      expect_exact({{"minimum", low}, {"maximum", high}}, texts);
      if (high.get<double>() - low.get<double>() > 1e-13)
        expect_exact({{"exclusiveMinimum", low}, {"exclusiveMaximum", high}}, texts);
    }
  const Constraint start = schema_constraint(R"({"type": "number", "maximum": 5})");
  for (const char* text : {"1e0", "00", "01", "1.", ".5", "+1", "0.000000000000001", "-1234567890123456"})
    EXPECT_FALSE(writes(start, text)) << text;  // an exponent, no JSON, more than 15 digits
}

// Without bounds on a side the length is no burden: ranges share what no bound holds any more.
TEST(NumberRange, many_ranges_take_few_states) {
  Grammar grammar;
  NumberRange range(grammar, NumberRange::Kind::number);
  range.between(Bound{Decimal::parse("0"), false}, std::nullopt);
  const size_t first = grammar.n_nodes();
  for (int i = 1; i <= 100; ++i)
    range.between(Bound{Decimal::parse(std::to_string(i)), false},
                  Bound{Decimal::parse(std::to_string(1000 * i)), true});
  EXPECT_LT(grammar.n_nodes() - first, 100u * 160);
}

}  // namespace
}  // namespace linnet::runtime
