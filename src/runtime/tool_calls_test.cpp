// Replies with tool calls: what the grammar allows, drawn at random and said by hand, and how a reply is read.
#include "runtime/tool_calls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/text.h"
#include "runtime/constraint/constraint_test_support.h"

namespace linnet::runtime {
namespace {

using testing::HasSubstr;

const char* const kTools = R"([
  {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {
    "type": "object", "properties": {"a": {"type": "string", "maxLength": 3}, "b": {"type": "integer"}}, "required": ["a"]}}},
  {"type": "function", "function": {"name": "weather_now", "parameters": {"properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": false}}},
  {"type": "function", "function": {"name": "anything"}},
  {"type": "function", "function": {"name": "lax", "parameters": {"type": "object", "patternProperties": {"^a": {}}}}}])";

int32_t special(const char* name) { return json_tokenizer().special_id(name).value(); }

Constraint constraint_of(const std::string& choice, bool parallel = true) {
  const std::vector<Tool> tools = parse_tools(kTools);
  return tool_constraint(tools, parse_tool_choice(choice, tools), parallel, json_tokenizer(), json_trie(), {end_id()});
}

// Says a reply in which S s C A c stand for the special tokens at their first places behind '^'.
Constraint said(Constraint c, const std::string& reply) {
  for (size_t i = 0; i < reply.size(); ++i) {
    if (reply[i] != '^') {
      c = after(std::move(c), reply.substr(i, 1));
      continue;
    }
    switch (reply[++i]) {
      case 'S': c.accept(special("<|tool_calls_section_begin|>")); break;
      case 's': c.accept(special("<|tool_calls_section_end|>")); break;
      case 'C': c.accept(special("<|tool_call_begin|>")); break;
      case 'A': c.accept(special("<|tool_call_argument_begin|>")); break;
      default: c.accept(special("<|tool_call_end|>"));
    }
  }
  return c;
}

bool allows(const Constraint& c, const std::string& reply) {
  try {
    said(c, reply);
    return true;
  } catch (const InvalidArgument&) { return false; }
}

TEST(tool_calls, what_a_reply_may_be) {
  const Constraint any = constraint_of("\"auto\"");
  EXPECT_TRUE(any.may_end());
  EXPECT_TRUE(allows(any, "text \xe4\xb8"));
  const std::string call = "^Cfunctions.weather:0^A{\"a\": \"x\"}^c";
  EXPECT_TRUE(said(any, "text^S" + call + "^s").must_end());
  EXPECT_TRUE(said(any, "^S" + call + "^Cfunctions.weather_now:1^A{\"n\":2}^c^s").must_end());
  EXPECT_TRUE(allows(any, "^S^Cfunctions.lax:12^A{\"b\": [1]}^c")) << "a schema that cannot be guaranteed: any object";
  EXPECT_TRUE(allows(any, "^S^Cfunctions.anything:0^A{}^c"));
  EXPECT_FALSE(said(any, "^S" + call).may_end());
  for (const char* wrong : {"^s", "^C", "^S^s", "^Sx", "^S^Cweather:0", "^S^Cfunctions.wether",
                            "^S^Cfunctions.weather:^A", "^S^Cfunctions.weather:0000", "^S^Cfunctions.weather:0^A{}",
                            "^S^Cfunctions.weather:0^A[", "^S^Cfunctions.weather_now:0^A{\"n\":3",
                            "^S^Cfunctions.weather:0^A{\"a\": \"^c", "^S^Cfunctions.weather_now:0^A1"})
    EXPECT_FALSE(allows(any, wrong)) << wrong;
  const Constraint one = constraint_of("\"auto\"", false);
  EXPECT_TRUE(allows(one, "^S" + call + "^s"));
  EXPECT_FALSE(allows(one, "^S" + call + "^C"));
}

TEST(tool_calls, choices) {
  const Constraint required = constraint_of("\"required\"");
  EXPECT_FALSE(required.may_end());
  EXPECT_FALSE(allows(required, "x"));
  EXPECT_EQ(allowed(required), std::vector<int32_t>{special("<|tool_calls_section_begin|>")});
  const Constraint named = constraint_of(R"({"type": "function", "function": {"name": "weather"}})");
  EXPECT_TRUE(allows(named, "^S^Cfunctions.weather:0^A{\"a\":\"\"}^c^s"));
  EXPECT_FALSE(allows(named, "^S^Cfunctions.a"));
  EXPECT_FALSE(allows(named, "^S^Cfunctions.weather_"));
  EXPECT_FALSE(allows(constraint_of("\"none\""), "^S"));
  EXPECT_TRUE(allows(constraint_of("\"none\""), "text"));
  EXPECT_THROW(constraint_of("\"some\""), FormatError);
  EXPECT_THROW(constraint_of(R"({"type": "function", "function": {"name": "f"}})"), FormatError);
}

// A token of text that holds the byte of a mark is not the mark.
TEST(tool_calls, text_is_never_a_special_token) {
  const Constraint required = constraint_of("\"required\"");
  for (int byte = 0xf0; byte < 0x100; ++byte)
    EXPECT_FALSE(accepts(required, json_tokenizer().ranks().rank_of_byte(static_cast<uint8_t>(byte)))) << byte;
  EXPECT_FALSE(allows(constraint_of("\"auto\""), "\xf8"));
  EXPECT_FALSE(accepts(constraint_of("\"auto\""), special("<|im_user|>")));
}

// Drawn from the masks, with the tightest limit half of the time: calls are complete and their arguments follow the schemas.
TEST(tool_calls, drawn_replies_can_be_read) {
  Rng rng(7);
  for (int i = 0; i < 60; ++i) {
    Constraint c = constraint_of("\"required\"");
    std::string reply;
    for (int64_t n = 0; !c.must_end(); ++n) {
      ASSERT_LT(n, 400) << reply;
      const std::vector<int32_t> ids = allowed(c, i % 2 == 0 ? c.shortest() : std::max<int64_t>(120 - n, c.shortest()));
      ASSERT_FALSE(ids.empty());
      const int32_t id = ids[rng.bits() % ids.size()];
      const auto mark = c.terminal(id);
      reply += mark ? std::string(1, static_cast<char>(*mark)) : std::string(json_tokenizer().bytes_of(id));
      c.accept(id);
    }
    ToolCallParser parser;
    const auto [content, calls] = parser.push(reply);
    EXPECT_EQ(content, "");
    ASSERT_GE(calls.size(), 1u);
    for (const ToolCallDelta& call : calls) {
      const auto arguments = nlohmann::json::parse(call.arguments);
      EXPECT_TRUE(arguments.is_object());
      if (call.name == "weather") {
        EXPECT_TRUE(arguments.at("a").is_string());
      } else if (call.name == "weather_now") {
        EXPECT_THAT(arguments.at("n").get<int>(), testing::AnyOf(1, 2));
      }
    }
  }
}

TEST(tool_calls, a_reply_is_read_as_it_comes) {
  const std::string reply =
      "say\xf8\xfa"
      "functions.f:0\xfb{\"a\":\"<|tool_call_end|>\"}\xfc\xfa"
      "functions.g.h:0\xfb{}\xfc\xfa"
      "functions.f:0\xfb{}\xfc\xf9";
  for (size_t step : {size_t{1}, size_t{3}, reply.size()}) {
    ToolCallParser parser;
    std::string content;
    std::vector<ToolCallDelta> calls;
    for (size_t at = 0; at < reply.size(); at += step) {
      const auto parsed = parser.push(std::string_view(reply).substr(at, step));
      content += parsed.content;
      for (const ToolCallDelta& delta : parsed.calls) {
        if (delta.index == calls.size()) calls.push_back(delta);
        else calls.at(delta.index).arguments += delta.arguments;
      }
    }
    EXPECT_EQ(content, "say");
    ASSERT_EQ(calls.size(), 3u);
    EXPECT_EQ(calls[0].id, "functions.f:0");
    EXPECT_EQ(calls[0].name, "f");
    EXPECT_EQ(calls[0].arguments, "{\"a\":\"<|tool_call_end|>\"}");
    EXPECT_EQ(calls[1].name, "g.h");
    EXPECT_EQ(calls[2].id, "functions.f:2") << "an id twice would be ambiguous";
  }
}

TEST(tool_calls, lists_of_tools_are_checked) {
  const auto message = [](const char* json) -> std::string {
    try {
      parse_tools(json);
    } catch (const FormatError& e) { return e.what(); }
    return "none";
  };
  EXPECT_THAT(message(R"([{"type": "function", "function": {"name": "a b"}}])"), HasSubstr("name"));
  EXPECT_THAT(message(R"([{"type": "other", "function": {"name": "a"}}])"), HasSubstr("type"));
  EXPECT_THAT(message(R"([{"type": "function"}])"), HasSubstr("function"));
  EXPECT_THAT(message(R"([{"function": {"name": "a"}}, {"function": {"name": "a"}}])"), HasSubstr("no other"));
  const auto tools = parse_tools(
      R"([{"function": {"name": "a", "strict": true, "parameters": {"type": "object", "patternProperties": {}}}}])");
  EXPECT_THROW(tool_constraint(tools, {}, true, json_tokenizer(), json_trie(), {end_id()}), Unsupported);
}

}  // namespace
}  // namespace linnet::runtime
