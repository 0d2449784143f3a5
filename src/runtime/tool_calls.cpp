#include "runtime/tool_calls.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/text.h"
#include "formats/json_fields.h"
#include "runtime/constraint/json_grammar.h"
#include "runtime/constraint/json_schema.h"

namespace linnet::runtime {
namespace {

using formats::JsonFields;
using Node = Grammar::Node;
constexpr Node kEnd = Grammar::kEnd;
constexpr std::string_view kPrefix = "functions.";
constexpr size_t kMaxTools = 128, kMaxName = 64;

bool is_name(std::string_view name) {
  const auto ok = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.';
  };
  return !name.empty() && name.size() <= kMaxName && std::all_of(name.begin(), name.end(), ok);
}

// Arguments are objects, also where a schema does not say so.
std::string object_schema(const std::string& text) {
  if (text.empty()) return {};
  auto schema = nlohmann::ordered_json::parse(text, nullptr, false);
  if (!schema.is_object() || schema.empty()) return schema.is_object() ? "" : text;
  for (const char* key : {"type", "$ref", "anyOf", "oneOf", "const", "enum"})
    if (schema.contains(key)) return text;
  schema["type"] = "object";
  return schema.dump();
}

void read_mark(Grammar& g, Node from, ToolMark mark, Node to) { g.read(from, mark, mark, to); }

Node add_arguments(Grammar& g, const Tool& tool) {
  const std::string schema = object_schema(tool.parameters);
  if (schema.empty()) return add_json_object(g);
  const std::string place = cat("tools: ", tool.name, ": parameters");
  if (tool.strict) return add_json_schema(g, schema, place);
  try {
    return add_json_schema(g, schema, place);
  } catch (const Unsupported&) { return add_json_object(g); }
}

// Behind the name: ":", a number of at most three digits, the arguments.
void add_call(Grammar& g, Node from, const Tool& tool, Node to) {
  Node digits = g.read(from, ":");
  const Node done = g.add_node();
  for (int i = 0; i < 3; ++i) {
    const Node next = g.add_node();
    g.read(digits, '0', '9', next);
    g.skip(next, done);
    digits = next;
  }
  const Node arguments = g.add_node(), end = g.add_node();
  read_mark(g, done, kArgumentBegin, arguments);
  g.call(arguments, add_arguments(g, tool), end);
  read_mark(g, end, kCallEnd, to);
}

Node section(Grammar& g, const std::vector<Tool>& tools, const ToolChoice& choice, bool parallel) {
  const Node start = g.add_node(), calls = g.add_node(), call = g.add_node(), after = g.add_node();
  read_mark(g, start, kSectionBegin, calls);
  read_mark(g, calls, kCallBegin, call);
  const Node name = g.read(call, kPrefix);
  for (const Tool& tool : tools)
    if (choice.name.empty() || choice.name == tool.name) add_call(g, g.read(name, tool.name), tool, after);
  if (parallel) read_mark(g, after, kCallBegin, call);
  read_mark(g, after, kSectionEnd, kEnd);
  return start;
}

std::vector<Constraint::Terminal> terminals_of(const formats::Tokenizer& tokenizer) {
  std::vector<Constraint::Terminal> terminals;
  for (const auto& [name, mark] : {std::pair("<|tool_calls_section_begin|>", kSectionBegin),
                                   {"<|tool_calls_section_end|>", kSectionEnd},
                                   {"<|tool_call_begin|>", kCallBegin},
                                   {"<|tool_call_argument_begin|>", kArgumentBegin},
                                   {"<|tool_call_end|>", kCallEnd}}) {
    const auto id = tokenizer.special_id(name);
    if (!id) throw Unsupported(cat("tools: expected a tokenizer with the special token ", name, ", got none"));
    terminals.push_back({*id, mark});
  }
  return terminals;
}

}  // namespace

std::vector<Tool> parse_tools(std::string_view json) {
  const auto body = JsonFields::parse(cat("{\"tools\":", json, "}"), "body");
  std::vector<Tool> tools;
  std::set<std::string> names;
  for (const JsonFields& entry : body.objects("tools")) {
    if (entry.optional_string("type").value_or("function") != "function") throw entry.error("type", "\"function\"");
    const auto function = entry.optional_object("function");
    if (!function) throw entry.error("function", "an object with a name");
    Tool tool{.name = function->string("name")};
    if (!is_name(tool.name)) throw function->error("name", "1 to 64 letters, digits, _ - .");
    if (!names.insert(tool.name).second) throw function->error("name", "a name that no other tool has");
    tool.parameters = function->optional_json("parameters").value_or("");
    if (tool.parameters == "null") tool.parameters.clear();
    tool.strict = function->optional_boolean("strict").value_or(false);
    tools.push_back(std::move(tool));
  }
  if (tools.size() > kMaxTools) throw body.error("tools", cat("at most ", kMaxTools, " tools"));
  return tools;
}

ToolChoice parse_tool_choice(std::string_view json, const std::vector<Tool>& tools) {
  if (json.empty() || json == "null" || json == "\"auto\"") return {};
  if (json == "\"none\"") return {.use = ToolUse::none, .name = {}};
  const auto refuse = [&](const char* expected) {
    return FormatError(cat("tool_choice: expected ", expected, ", got ", printable(json, 80)));
  };
  const std::string name = [&] {
    if (json == "\"required\"") return std::string();
    const auto choice = nlohmann::json::parse(json, nullptr, false);
    if (!choice.is_object() || !choice.contains("function") || !choice["function"].is_object() ||
        !choice["function"].contains("name") || !choice["function"]["name"].is_string())
      throw refuse("none, auto, required or {\"type\": \"function\", \"function\": {\"name\": ...}}");
    return choice["function"]["name"].get<std::string>();
  }();
  const auto named = [&](const Tool& tool) { return name.empty() || tool.name == name; };
  if (std::none_of(tools.begin(), tools.end(), named)) throw refuse("one of the tools");
  return {.use = ToolUse::required, .name = name};
}

Constraint tool_constraint(const std::vector<Tool>& tools, const ToolChoice& choice, bool parallel,
                           const formats::Tokenizer& tokenizer, std::shared_ptr<const TokenTrie> trie,
                           std::vector<int32_t> end_ids) {
  Grammar g;
  const Node text = g.add_node();
  if (choice.use != ToolUse::required) {
    g.read(text, 0, Grammar::kFirstTerminal - 1, text);
    g.skip(text, kEnd);
  }
  if (choice.use != ToolUse::none) g.skip(text, section(g, tools, choice, parallel));
  g.finish(text);
  return {std::move(g), std::move(trie), std::move(end_ids), terminals_of(tokenizer)};
}

// "functions.NAME:INDEX" is the id, too. A model that numbers two calls alike would confuse whoever answers them.
void ToolCallParser::begin_call(Parsed& out) {
  std::string_view name = header_;
  if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
  const size_t colon = std::min(name.rfind(':'), name.size());
  const std::string called(name.substr(0, colon));
  std::string id = header_;
  for (size_t i = n_calls_; !ids_.insert(id).second; ++i) id = cat(kPrefix, called, ":", i);
  out.calls.push_back({.index = n_calls_++, .id = std::move(id), .name = called, .arguments = {}});
  header_.clear();
}

ToolCallParser::Parsed ToolCallParser::push(std::string_view text) {
  Parsed out;
  for (char c : text) {
    switch (static_cast<uint8_t>(c)) {
      case kSectionBegin:
      case kCallEnd: part_ = Part::between; continue;
      case kSectionEnd: part_ = Part::content; continue;
      case kCallBegin: part_ = Part::header; continue;
      case kArgumentBegin:
        begin_call(out);
        part_ = Part::arguments;
        continue;
      default: break;
    }
    if (part_ == Part::content) out.content += c;
    if (part_ == Part::header) header_ += c;
    if (part_ != Part::arguments) continue;
    if (out.calls.empty()) out.calls.push_back({.index = n_calls_ - 1, .id = {}, .name = {}, .arguments = {}});
    out.calls.back().arguments += c;
  }
  return out;
}

}  // namespace linnet::runtime
