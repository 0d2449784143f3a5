// The template language against Python's Jinja2 (tests/data/chat/cases.json), its limits and its messages.
#include "formats/jinja.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "formats/file_test_support.h"
#include "formats/jinja_json.h"
#include "formats/jinja_value.h"

namespace linnet::formats::jinja {
namespace {

using Variables = std::vector<std::pair<std::string, Value>>;

Variables variables_of(const std::string& json) {
  Variables variables;
  const Value value = value_of_json(json, "variables");
  for (const auto& [name, v] : value.dict()->items) variables.emplace_back(utf8_of(*name.text()), v);
  return variables;
}

std::string rendered(const std::string& source, const Variables& variables = {}, uint64_t work = Template::kWork) {
  return utf8_of(Template::parse("t", source).render(variables, work));
}

TEST(jinja, equals_jinja2) {
  const std::string folder = LINNET_SOURCE_DIR "/tests/data/chat/";
  const auto data = nlohmann::ordered_json::parse(contents(folder + "cases.json"));
  int n = 0;
  for (const auto& c : data["cases"]) {
    const std::string name = c["name"];
    const std::string source =
        c.contains("template") ? c["template"].get<std::string>() : contents(folder + c["file"].get<std::string>());
    const Variables variables = variables_of((c["variables"].is_string() ? data["common"] : c["variables"]).dump());
    ++n;
    if (c.contains("fails")) {
      EXPECT_THROW(rendered(source, variables), Error) << name << ": " << source.substr(0, 80);
      continue;
    }
    try {
      EXPECT_EQ(rendered(source, variables), c["output"].get<std::string>()) << name << ": " << source.substr(0, 400);
    } catch (const Error& e) { ADD_FAILURE() << name << ": " << e.what() << "\n" << source.substr(0, 400); }
  }
  EXPECT_GT(n, 200);
}

TEST(jinja, errors_name_the_place_and_the_construct) {
  struct Case {
    const char* source;
    const char* message;
  };
  const Case cases[] = {
      {"a\n {% include 'x' %}", "t:2:5: unknown statement include"},
      {"{% block x %}{% endblock %}", "t:1:4: unknown statement block"},
      {"{{ 1 | frobnicate }}", "t:1:8: unknown filter frobnicate"},
      {"{{ '<' | e }}", "t:1:10: unknown filter e"},
      {"{{ 1 is frobnicated }}", "t:1:9: unknown test frobnicated"},
      {"{% for a in b recursive %}{% endfor %}", "t:1:15: unknown construct: recursive loop"},
      {"{% for i in [1] %}{% macro m() %}{% endmacro %}{% endfor %}",
       "t:1:22: unknown construct: macro inside a loop, macro or set block"},
      {"{{ f(*a) }}", "t:1:6: expected an expression, got \"*\""},
      {"{% break %}", "t:1:4: expected break inside a loop, got it outside"},
      {"{{ a", "t:1:1: expected an output that ends with }}, got none"},
      {"x{% if a", "t:1:2: expected a block that ends with %}, got none"},
      {"x{# a", "t:1:2: expected a comment that ends with #}, got none"},
      {"{% raw %} a", "t:1:1: expected a raw block that ends with {% endraw %}, got none"},
      {"{% if a %}", "t:1:11: expected {% endif %}, got the end of the template"},
      {"{% if a %}{% endfor %}", "t:1:14: unknown statement endfor"},
      {"{{ 'a }}", "t:1:4: expected a string that ends, got none"},
      {"{{ '\\xzz' }}", "t:1:4: string: expected 2 hexadecimal digits in an escape"},
      {"{{ [1) }}", "t:1:6: expected no \")\" here, got one"},
      {"{{ a ? b }}", "t:1:6: expected an expression, got \"?\""},
      {"{{ 99999999999999999999 }}", "t:1:4: expected a number of 64 bits, got 99999999999999999999"},
      {"{{ a b }}", "t:1:6: expected }}, got \"b\""},
      {"\n\n  {{ x.y }}", "t:3:7: 'x' is undefined, so it has no .y"},
      {"{{ strftime_now('%d') }}", "t:1:16: 'strftime_now' is undefined"},
      {"{{ 1 + 'a' }}", "t:1:6: +: expected operands that fit, got int and str"},
      {"{{ [1].append(2) }}", "t:1:14: 'append' is undefined"},
      {"{{ 'a'|indent(zz=1) }}", "t:1:8: call: unknown argument zz"},
      {"{{ 9223372036854775807 + 1 }}", "t:1:24: +: expected a 64-bit result, got more"},
      {"{% set a, b = [1] %}", "t:1:4: assignment: expected a list of 2, got a list of 1"},
      {"{% set x.y = 1 %}", "t:1:4: set: expected a namespace named x, got nothing"},
      {"{{ range(3).x.y }}", "t:1:14: 'x' is undefined, so it has no .y"},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(error_of<FormatError>([&] { rendered(c.source); }), c.message) << c.source;
  }
  EXPECT_EQ(error_of<InvalidArgument>([] { rendered("{{ raise_exception('no ' ~ 1) }}"); }),
            "t:1:19: the template refuses the conversation: no 1");
}

std::string repeated(const std::string& unit, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += unit;
  return out;
}

TEST(jinja, hostile_templates_end) {
  const std::string big = repeated("(", 100'000);
  const std::string sources[] = {
      "{% for i in range(999999999999) %}{% endfor %}",
      "{% for i in range(4000) %}{% for j in range(4000) %}{% for k in range(4000) %}x{% endfor %}{% endfor %}{% "
      "endfor %}",
      "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
      "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
      "{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(20) %}{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, "
      "ns.m] %}{% endfor %}{% for i in range(99) %}{{ ns.l == ns.m }}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(5000) %}{% set ns.l = [ns.l] %}{% endfor %}",
      "{{ 'x' * 999999999999 }}",
      "{{ [0] * 99999999 * 99999 }}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
      "{{ ('a' * 3000000).replace('', 'b' * 3000000) }}",
      "{{ ('a' * 9000000).find('a' * 5000000 ~ 'b') }}",
      "{{ ('a' * 9000000)|list|length }}",
      "{{ ('x ' * 9000000).split()|length }}",
      "{{ range(3000000)|list|map('string')|join('x' * 100000) }}",
      "{{ ('a\n' * 9000000)|indent(900) }}",
      "{{ [1]|tojson(indent=99999999999) }}{{ range(9999999)|list|tojson(indent='x' * 99999) }}",
      "{{ (range(99999)|list)|unique|list|length }}",
      "{{ " + big + repeated(")", 100'000) + " }}",
      "{{ " + repeated("[", 100'000) + repeated("]", 100'000) + " }}",
      "{{ " + repeated("not ", 100'000) + "1 }}",
      "{{ " + repeated("-", 100'000) + "1 }}",
      "{{ 1" + repeated("+1", 100'000) + " }}",
      "{{ x" + repeated(".x", 100'000) + " }}",
      "{{ x" + repeated("|trim", 100'000) + " }}",
      "{{ x" + repeated(" if 1 else 1", 100'000) + " }}",
      repeated("{% if 1 %}", 100'000) + repeated("{% endif %}", 100'000),
      "{{ 2 ** 999999999999 }}",
  };
  for (const std::string& source : sources) {
    EXPECT_THAT(error_of<FormatError>([&] { rendered(source, {}, 1 << 20); }),
                testing::AnyOf(testing::HasSubstr("limit of work"), testing::HasSubstr("at most"),
                               testing::HasSubstr("nested"), testing::HasSubstr("64-bit")))
        << source.substr(0, 100);
  }
  EXPECT_EQ(rendered("{{ 1 ** 999999999999 }}{{ (-1) ** 999999999999 }}{{ 0 ** 5 }}"), "1-10");
}

TEST(jinja, long_conversations_stay_within_the_limit) {
  std::string json = "{\"messages\": [";
  for (int i = 0; i < 5000; ++i)
    json += std::string(i ? "," : "") + R"({"role": "user", "content": ")" + std::string(200, 'x') + "\"}";
  const std::string kimi = contents(LINNET_SOURCE_DIR "/tests/data/chat/kimi_k2.jinja");
  EXPECT_GT(rendered(kimi, variables_of(json + "]}")).size(), 1'000'000u);
}

TEST(jinja, text_keeps_bytes_and_marks) {
  for (const char* bytes : {"", "plain", "中é😀", "\xff\x80 \xed\xa0\x80 \xf0\x9f\x98", "\xed\xb2\x80"}) {
    const Text text = text_of(bytes, Origin::foreign);
    EXPECT_EQ(utf8_of(text), bytes);
    EXPECT_TRUE(std::all_of(text.begin(), text.end(), [](char32_t c) { return c & kForeign; }));
    EXPECT_EQ(text, text_of(bytes));  // provenance does not count in comparisons
    EXPECT_EQ(text.find(text_of(bytes)), 0u);
  }
}

}  // namespace
}  // namespace linnet::formats::jinja
