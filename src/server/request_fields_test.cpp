// The fields of requests: what each becomes, what is refused and which field is blamed, and that the table holds what is read.
#include "server/request_fields.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "core/text.h"
#include "runtime/scheduler.h"
#include "server/api_error.h"
#include "server/field_table.h"

namespace linnet::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

// The request with further fields.
std::string chat_text(const std::string& more = "") {
  return cat(R"({"messages": [{"role": "user", "content": "hi"}])", more.empty() ? "" : ", ", more, "}");
}
std::string completion_text(const std::string& more = "") {
  return cat(R"({"prompt": "hi")", more.empty() ? "" : ", ", more, "}");
}

// The error as its client sees it.
template <class Body>
ApiError refusal(Body body) {
  try {
    body();
  } catch (const std::exception& e) { return to_api_error(e); }
  ADD_FAILURE() << "no error";
  return {0, ""};
}

TEST(request_fields, defaults) {
  const CompletionFields f = parse_completion(completion_text());
  EXPECT_EQ(f.n, 1);
  EXPECT_EQ(f.top_logprobs, -1);
  EXPECT_FALSE(f.model || f.temperature || f.top_p || f.seed || f.max_tokens);
  EXPECT_FALSE(f.stream || f.echo || f.ignore_eos || f.parse_special);
  EXPECT_TRUE(f.skip_special_tokens);
  EXPECT_EQ(f.format, ResponseFormat::text);
  const ChatFields chat = parse_chat(chat_text());
  EXPECT_TRUE(chat.add_generation_prompt);
  EXPECT_EQ(chat.tools_json, "");
}

TEST(request_fields, values) {
  const CompletionFields f = parse_completion(completion_text(
      R"("model": "m", "temperature": 0.5, "top_p": 0.25, "top_k": -1, "min_p": 0, "seed": -2, "n": 3, "max_tokens": 7,
         "stop": "x", "stop_token_ids": [4], "logit_bias": {"7": -100, "9": 1.5}, "logprobs": 0, "echo": true, "stream": true,
         "stream_options": {"include_usage": true}, "presence_penalty": -1, "frequency_penalty": 2, "repetition_penalty": 1.5,
         "ignore_eos": true, "skip_special_tokens": false, "user": "u", "zebra": [1])"));
  EXPECT_EQ(f.model, "m");
  EXPECT_EQ(f.temperature, 0.5);
  EXPECT_EQ(f.top_k, -1);
  EXPECT_EQ(f.seed, static_cast<uint64_t>(-2));
  EXPECT_THAT(f.stops, ElementsAre("x"));
  EXPECT_THAT(f.logit_bias, ElementsAre(Pair(7, -100.f), Pair(9, 1.5f)));
  EXPECT_EQ(f.top_logprobs, 0);
  EXPECT_TRUE(f.echo && f.stream && f.include_usage && f.ignore_eos && !f.skip_special_tokens);
  EXPECT_THAT(f.unknown, ElementsAre("zebra"));
  EXPECT_EQ(parse_chat(chat_text(R"("max_tokens": 5, "max_completion_tokens": 6)")).max_tokens, 6);
  EXPECT_EQ(parse_chat(chat_text(R"("logprobs": true)")).top_logprobs, 0);
  EXPECT_EQ(parse_chat(chat_text(R"("logprobs": true, "top_logprobs": 20)")).top_logprobs, 20);
}

TEST(request_fields, prompts) {
  const auto prompts = [](const std::string& json) {
    return parse_completion(cat("{\"prompt\": ", json, "}")).prompts;
  };
  EXPECT_THAT(prompts(R"("a")"), ElementsAre(Prompt("a")));
  EXPECT_THAT(prompts(R"(["a", ""])"), ElementsAre(Prompt("a"), Prompt("")));
  EXPECT_THAT(prompts("[1, 2]"), ElementsAre(Prompt(std::vector<int32_t>{1, 2})));
  EXPECT_THAT(prompts("[[1], [2, 3]]"),
              ElementsAre(Prompt(std::vector<int32_t>{1}), Prompt(std::vector<int32_t>{2, 3})));
  for (const char* bad :
       {"null", "3", "{}", "[]", "[[]]", "[1, \"a\"]", "[\"a\", [1]]", "[-1]", "[1.5]", "[3000000000]", "[null]"})
    EXPECT_EQ(refusal([&] { prompts(bad); }).param, "prompt") << bad;
}

TEST(request_fields, messages) {
  const auto messages = [](const std::string& json) { return parse_chat(cat("{\"messages\": ", json, "}")).messages; };
  const auto parsed =
      messages(R"([{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}, {"role": "tool", "content": "r", "tool_call_id": "1"}])");
  ASSERT_EQ(parsed.size(), 3u);
  EXPECT_EQ(parsed[0].role, "system");
  EXPECT_EQ(parsed[0].content, "ab");
  EXPECT_EQ(parsed[1].more, R"({"tool_calls":[{"id":"1"}]})");
  EXPECT_EQ(parsed[2].more, R"({"tool_call_id":"1"})");
  for (const auto& wrong : std::vector<std::pair<std::string, std::string>>{
           {"[]", "messages"},
           {R"([{"content": "a"}])", "messages[0].role"},
           {R"([{"role": "user", "content": 3}])", "messages[0].content"},
           {R"([{"role": "user", "content": [{"type": "image_url"}]}])", "messages[0].content[0].type"},
           {R"([{"role": "user", "content": [{"type": "text"}]}])", "messages[0].content[0].text"}})
    EXPECT_EQ(refusal([&] { messages(wrong.first); }).param, wrong.second) << wrong.first;
}

TEST(request_fields, the_schema_keeps_its_order) {
  const ChatFields f = parse_chat(chat_text(
      R"("response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"properties": {"z": {}, "a": {}}}}})"));
  EXPECT_EQ(f.schema, R"({"properties": {"z": {}, "a": {}}})");
  const ChatFields tools =
      parse_chat(chat_text(R"("tools": [{"type": "function", "function": {"name": "f", "a": 1}}])"));
  EXPECT_EQ(tools.tools_json, R"([{"type": "function", "function": {"name": "f", "a": 1}}])");
  EXPECT_EQ(
      refusal([] { parse_chat(chat_text(R"("response_format": {"type": "json_schema", "json_schema": {}})")); }).param,
      "response_format.json_schema.schema");
  EXPECT_EQ(refusal([] { parse_chat(chat_text(R"("response_format": {"type": "json_object", "schema": {}})")); }).param,
            "response_format.schema");
}

TEST(request_fields, what_nobody_knows_is_listed) {
  const std::string options =
      R"("stream_options": {"include_usage": true, "continuous_usage_stats": true}, "zebra": 1)";
  EXPECT_THAT(parse_chat(chat_text(options)).unknown, ElementsAre("stream_options.continuous_usage_stats", "zebra"));
  EXPECT_TRUE(parse_completion(completion_text(options)).include_usage);
}

// Reading any of these by comparing each part with those before it would not end while somebody waits for this test.
TEST(request_fields, bombs) {
  const auto many = [](const char* one, int n) {
    std::string text;
    for (int i = 0; i < n; ++i) text += cat(i ? "," : "", one);
    return text;
  };
  std::string members;
  for (int i = 0; i < 200'000; ++i) members += cat(i ? "," : "", "\"", i, "\":0");
  const std::string message = R"({"role":"user","content":"a"})";
  for (const auto& [text, expected] : std::vector<std::pair<std::string, std::string>>{
           {chat_text("\"x\":{" + members + "}"), "at most 4096 members of one object"},
           {completion_text("\"logit_bias\":{" + members + "}"), "at most 4096 members of one object"},
           {cat(R"({"messages":[{"role":"user","content":"a","tool_calls":{)", members, "}}]}"),
            "members of one object"},
           {cat(R"({"messages":[)", many(message.c_str(), 100'000), "]}"), "at most 262144 strings, keys, arrays"},
           {cat(R"({"messages":[)", many(message.c_str(), 5000), "]}"), "messages: expected 1 to 4096, got 5000"},
           {cat(R"({"prompt":[)", many("1", 5'000'000), "]}"), "at most 4194304 values"},
           {cat(R"({"prompt":[)", many("[]", 300'000), "]}"), "at most 262144 strings, keys, arrays"}})
    EXPECT_THAT(
        refusal([&, t = text] { t.starts_with("{\"m") ? (void)parse_chat(t) : (void)parse_completion(t); }).what(),
        HasSubstr(expected));
  EXPECT_EQ(std::get<1>(parse_completion(cat(R"({"prompt":[)", many("7", 300'000), "]}")).prompts[0]).size(), 300'000u);
}

// What a row says holds: a field that is read has an effect on reading, one that is refused is, one that is ignored passes.
TEST(request_fields, the_table_is_what_happens) {
  std::set<std::string> names;
  for (const Field& field : field_table()) {
    EXPECT_TRUE(names.insert(field.name).second) << field.name << ": twice";
    const bool chat = field.where != Endpoint::completions;
    const auto parse = [&](const std::string& value) {
      const std::string more = cat('"', field.name, "\": ", value);
      if (field.name == std::string("messages") || field.name == std::string("prompt"))
        parse_completion(cat("{", more, "}"));
      else if (chat) parse_chat(chat_text(more));
      else parse_completion(completion_text(more));
    };
    const std::string absurd = R"({"absurd": [{}]})";
    if (field.use == FieldUse::ignored) parse(absurd);
    if (field.use == FieldUse::refused) {
      const ApiError error = refusal([&] { parse(absurd); });
      EXPECT_EQ(error.status, 400) << field.name;
      EXPECT_EQ(error.param, field.name);
      EXPECT_EQ(error.code, "unsupported_parameter");
      parse("null");
      if (field.neutral) parse(field.neutral);
    }
  }
  EXPECT_GT(names.size(), 60u);
}

TEST(api_error, statuses_and_shapes) {
  EXPECT_EQ(to_api_error(runtime::Busy("full", 2.5, false)).status, 429);
  EXPECT_EQ(to_api_error(runtime::Busy("ending", 0, true)).status, 503);
  EXPECT_EQ(to_api_error(InvalidArgument("x")).status, 400);
  EXPECT_EQ(to_api_error(std::bad_alloc()).status, 503);
  const ApiError internal = to_api_error(std::runtime_error("secret"));
  EXPECT_EQ(internal.status, 500);
  EXPECT_THAT(internal.what(), testing::Not(HasSubstr("secret")));
  EXPECT_EQ(error_json(ApiError(400, "a \"b\"", "c")),
            R"({"error":{"message":"a \"b\"","type":"invalid_request_error","param":"c","code":null}})");
  const HttpResponse busy = error_response(to_api_error(runtime::Busy("full", 2.5, false)));
  EXPECT_THAT(busy.headers, ElementsAre(Pair("Retry-After", "3")));
}

}  // namespace
}  // namespace linnet::server
