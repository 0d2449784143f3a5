#include "runtime/constraint/json_schema.h"

#include <algorithm>
#include <deque>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <vector>

#include "core/errors.h"
#include "core/text.h"
#include "formats/json_check.h"
#include "runtime/constraint/json_grammar.h"
#include "runtime/constraint/number_range.h"

namespace linnet::runtime {
namespace {

using json = nlohmann::ordered_json;
using Node = Grammar::Node;
using Keywords = std::vector<std::string_view>;
constexpr Node kEnd = Grammar::kEnd;

// Keywords that say nothing about which values are valid.
const Keywords kAnnotations = {"title", "description", "default",  "examples",  "$comment", "$schema",
                               "$id",   "deprecated",  "readOnly", "writeOnly", "$defs",    "definitions"};
const Keywords kObject = {"properties", "required", "additionalProperties"}, kArray = {"items", "minItems", "maxItems"},
               kString = {"minLength", "maxLength"},
               kNumber = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};

bool contains(const Keywords& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// The document, refusing early what would cost time and memory: depth, many keys in an object, keys twice.
json parse_schema(std::string_view text) {
  if (text.size() > kMaxSchemaBytes)
    throw Unsupported(cat("expected a schema of at most ", kMaxSchemaBytes, " bytes, got ", text.size()));
  try {
    formats::check_json(text, "schema", {.levels = kMaxSchemaDepth, .members = kMaxSchemaKeys});
  } catch (const formats::JsonLimitError& e) { throw Unsupported(e.what()); }
  return json::parse(text);
}

class SchemaCompiler {
 public:
  SchemaCompiler(Grammar& grammar, const json& root)
      : g_(grammar),
        json_(grammar),
        integers_(grammar, NumberRange::Kind::integer),
        numbers_(grammar, NumberRange::Kind::number),
        root_(root) {}

  Node run() {
    const Node start = rule_of(root_, "#");
    for (; !pending_.empty(); pending_.pop_front()) build(pending_.front());
    return start;
  }

 private:
  // A schema whose rule has a beginning and no content yet.
  struct Task {
    const json* schema;
    std::string path;
    Node start;
  };

  // The rule of a schema; what it consists of is built later, so that schemas may hold themselves.
  Node rule_of(const json& schema, const std::string& path) {
    const auto [found, fresh] = rules_.try_emplace(&schema, kEnd);
    if (fresh) pending_.push_back({&schema, path, found->second = g_.add_node()});
    return found->second;
  }

  void build(const Task& task) {
    const auto& [schema, path, start] = task;
    if (schema->is_boolean()) {
      if (schema->get<bool>()) g_.call(start, json_.value(), kEnd);  // false: no way
      return;
    }
    expect(schema->is_object(), *schema, path, "a schema (an object, true or false)");
    if (schema->contains("$ref")) build_reference(task);
    else if (schema->contains("anyOf")) build_alternatives(task, "anyOf");
    else if (schema->contains("oneOf")) build_alternatives(task, "oneOf");
    else if (schema->contains("const") || schema->contains("enum")) build_constants(task);
    else build_types(task);
  }

  void build_reference(const Task& task) {
    allow(task, {"$ref"});
    const json& reference = (*task.schema)["$ref"];
    const std::string path = task.path + "/$ref";
    expect(reference.is_string() && reference.get_ref<const std::string&>().starts_with('#'), reference, path,
           "a reference into this schema (\"#/...\")");
    const std::string& target = reference.get_ref<const std::string&>();
    const json* schema = nullptr;
    try {
      schema = &root_.at(json::json_pointer(target.substr(1)));
    } catch (const json::exception&) { expect(false, reference, path, "a reference to something in this schema"); }
    g_.call(task.start, rule_of(*schema, target), kEnd);
  }

  void build_alternatives(const Task& task, const std::string& keyword) {
    allow(task, {keyword});
    const json& schemas = (*task.schema)[keyword];
    const std::string path = task.path + "/" + keyword;
    expect(schemas.is_array() && !schemas.empty(), schemas, path, "an array of schemas");
    for (size_t i = 0; i < schemas.size(); ++i) g_.call(task.start, rule_of(schemas[i], cat(path, "/", i)), kEnd);
  }

  void build_constants(const Task& task) {
    const json& schema = *task.schema;
    allow(task, {"const", "enum", "type"});
    if (schema.contains("const") && schema.contains("enum")) refuse(task.path + "/enum", "beside const");
    const Keywords types = types_of(task);
    std::vector<std::string> words;
    const auto add = [&](const json& value) {
      if (!schema.contains("type") || is_one_of(value, types)) words.push_back(value.dump());
    };
    if (schema.contains("const")) {
      add(schema["const"]);
    } else {
      expect(schema["enum"].is_array(), schema["enum"], task.path + "/enum", "an array of values");
      for (const json& value : schema["enum"]) add(value);
    }
    json_.add_words(task.start, words, kEnd);
  }

  static bool is_one_of(const json& value, const Keywords& types) {
    const bool integer = value.is_number_integer() ||
                         (value.is_number_float() && std::trunc(value.get<double>()) == value.get<double>());
    return contains(types, value.is_number() ? "number" : value.type_name()) || (integer && contains(types, "integer"));
  }

  // The types that a schema names; else those that its keywords are about, else all.
  Keywords types_of(const Task& task) {
    static const Keywords kAll = {"object", "array", "string", "number", "integer", "boolean", "null"};
    const json& schema = *task.schema;
    if (!schema.contains("type")) {
      const auto about = [&](const Keywords& keywords) {
        return std::any_of(keywords.begin(), keywords.end(), [&](std::string_view k) { return schema.contains(k); });
      };
      Keywords types;
      if (about(kObject)) types.push_back("object");
      if (about(kArray)) types.push_back("array");
      if (about(kString)) types.push_back("string");
      if (about(kNumber)) types.push_back("number");
      return types.empty() ? kAll : types;
    }
    const json& named = schema["type"];
    const std::string path = task.path + "/type";
    const char* expected = "one or several of object, array, string, number, integer, boolean, null";
    expect(named.is_string() || (named.is_array() && !named.empty()), named, path, expected);
    Keywords types;
    const auto add = [&](const json& type) {
      expect(type.is_string() && contains(kAll, type.get_ref<const std::string&>()), type, path, expected);
      if (!contains(types, type.get_ref<const std::string&>())) types.push_back(type.get_ref<const std::string&>());
    };
    if (named.is_string()) add(named);
    else std::for_each(named.begin(), named.end(), add);
    return types;
  }

  void build_types(const Task& task) {
    const Keywords types = types_of(task);
    Keywords allowed = {"type"};
    const auto allow_if = [&](const char* type, const Keywords& keywords) {
      if (contains(types, type)) allowed.insert(allowed.end(), keywords.begin(), keywords.end());
    };
    allow_if("object", kObject);
    allow_if("array", kArray);
    allow_if("string", kString);
    allow_if(contains(types, "number") ? "number" : "integer", kNumber);
    allow(task, allowed);
    if (contains(types, "object")) build_object(task);
    if (contains(types, "array")) build_array(task);
    if (contains(types, "string")) build_string(task);
    if (contains(types, "number")) build_number(task, numbers_);
    else if (contains(types, "integer")) build_number(task, integers_);
    if (contains(types, "boolean")) json_.add_words(task.start, {"true", "false"}, kEnd);
    if (contains(types, "null")) json_.add_words(task.start, {"null"}, kEnd);
  }

  struct Member {
    std::string name;
    Node value;
    bool required;
  };

  // Members in the order of the schema, those that only `required` names behind them.
  std::vector<Member> members_of(const Task& task, std::optional<Node> other) {
    const json& schema = *task.schema;
    std::vector<Member> members;
    if (schema.contains("properties")) {
      const json& properties = schema["properties"];
      const std::string path = task.path + "/properties";
      expect(properties.is_object(), properties, path, "an object of schemas");
      for (const auto& [name, value] : properties.items())
        members.push_back({name, rule_of(value, path + "/" + name), false});
    }
    if (!schema.contains("required")) return members;
    const json& required = schema["required"];
    const std::string path = task.path + "/required";
    expect(required.is_array() && required.size() <= kMaxSchemaKeys, required, path,
           cat("an array of at most ", kMaxSchemaKeys, " names"));
    for (const json& name : required) {
      expect(name.is_string(), name, path, "names");
      const auto same = [&](const Member& m) { return m.name == name.get_ref<const std::string&>(); };
      const auto member = std::find_if(members.begin(), members.end(), same);
      if (member != members.end()) member->required = true;
      else if (other) members.push_back({name, *other, true});
      else expect(false, name, path, "names of properties, as additionalProperties is false");
    }
    return members;
  }

  // The rule of members that the schema does not name, if there may be any.
  std::optional<Node> other_member(const Task& task) {
    const json& schema = *task.schema;
    if (!schema.contains("additionalProperties")) return json_.value();
    const json& other = schema["additionalProperties"];
    if (other.is_boolean() && !other.get<bool>()) return std::nullopt;
    return rule_of(other, task.path + "/additionalProperties");
  }

  void build_object(const Task& task) {
    const json& schema = *task.schema;
    const std::optional<Node> other = other_member(task);
    const std::vector<Member> members = members_of(task, other);
    // Where a schema lists properties, others must be asked for.
    const bool others = other && (schema.contains("additionalProperties") || !schema.contains("properties"));
    const size_t n = members.size();
    std::vector<Node> key(n + 1), after(n + 1);  // before the key of member i or a later one; behind a member before i
    for (size_t i = 0; i <= n; ++i) key[i] = g_.add_node(), after[i] = g_.add_node();
    const auto add_member = [&](Node from, Node value, Node to) {
      g_.call(g_.called(g_.read(from, ":"), json_.space()), value, to);
    };
    const Node first = g_.called(g_.read(task.start, "{"), json_.space()), close = g_.add_node();
    g_.skip(first, key[0]);
    g_.read_to(close, "}", kEnd);
    for (size_t i = 0; i < n; ++i) {
      add_member(g_.read(key[i], json(members[i].name).dump()), members[i].value, after[i + 1]);
      if (!members[i].required) g_.skip(key[i], key[i + 1]);
    }
    if (others) {
      std::vector<std::string> names;
      for (const Member& m : members) names.push_back(m.name);
      add_member(g_.called(key[n], json_.other_key(names)), *other, after[n]);
    }
    bool complete = true;  // no member from i on is required
    for (size_t i = n + 1; i-- > 0;) {
      if (i < n) complete = complete && !members[i].required;
      if (i < n || others) g_.call(g_.read(after[i], ","), json_.space(), key[i]);
      if (complete) g_.call(after[i], json_.space(), close);
    }
    if (complete) g_.skip(first, close);
  }

  // Bounds "minX" and "maxX" of a schema; none: without end.
  std::pair<size_t, std::optional<size_t>> bounds(const Task& task, const char* low, const char* high) {
    const auto bound = [&](const char* keyword) -> std::optional<size_t> {
      if (!task.schema->contains(keyword)) return std::nullopt;
      const json& value = (*task.schema)[keyword];
      expect(value.is_number_unsigned(), value, task.path + "/" + keyword, "an integer that is not negative");
      // More than there can be states is refused when states run out.
      return std::min<uint64_t>(value.get<uint64_t>(), Grammar::kMaxNodes);
    };
    return {bound(low).value_or(0), bound(high)};
  }

  void build_array(const Task& task) {
    const auto [min, max] = bounds(task, "minItems", "maxItems");
    const Node item =
        task.schema->contains("items") ? rule_of((*task.schema)["items"], task.path + "/items") : json_.value();
    const Node first = g_.called(g_.read(task.start, "["), json_.space()), close = g_.add_node();
    g_.read_to(close, "]", kEnd);
    if (min == 0) g_.skip(first, close);
    Node before = first;
    for (size_t n = 1; !max || n <= *max; ++n) {  // n: items so far
      const Node after = g_.called(before, item);
      if (n >= min) g_.call(after, json_.space(), close);
      const Node comma = g_.read(after, ",");
      before = g_.called(comma, json_.space());
      if (!max && n >= min) {
        g_.call(before, item, after);
        break;
      }
    }
  }

  void build_number(const Task& task, NumberRange& range) {
    const std::optional<Bound> low = number_bound(task, "minimum", "exclusiveMinimum", range.kind()),
                               high = number_bound(task, "maximum", "exclusiveMaximum", range.kind());
    const bool integer = range.kind() == NumberRange::Kind::integer;
    g_.call(task.start, low || high ? range.between(low, high) : integer ? json_.integer() : json_.number(), kEnd);
  }

  // The narrower of two keywords, which both bound numbers from the same side.
  std::optional<Bound> number_bound(const Task& task, const char* closed, const char* open, NumberRange::Kind kind) {
    std::optional<Bound> out;
    for (const char* keyword : {closed, open}) {
      if (!task.schema->contains(keyword)) continue;
      const json& number = (*task.schema)[keyword];
      const std::string path = task.path + "/" + keyword;
      expect(number.is_number(), number, path, "a number");
      const Bound bound{Decimal::parse(number.dump()), keyword == open};
      const bool low = std::string_view(closed) == "minimum";
      const size_t most = NumberRange::most_digits(kind);
      if (bound.value.whole.size() > most && bound.value.negative != low)
        throw Unsupported(cat(printable(path, 200), ": expected a bound that numbers of ", most, " digits keep, got ",
                              printable(number.dump(), 60)));
      const bool narrower = !out || (low ? !(bound.value < out->value) : !(out->value < bound.value));
      if (narrower) out = bound;
    }
    return out;
  }

  void build_string(const Task& task) {
    const auto [min, max] = bounds(task, "minLength", "maxLength");
    if (min == 0 && !max) return g_.call(task.start, json_.string(), kEnd);
    Node at = g_.read(task.start, "\"");
    for (size_t n = 0;; ++n) {  // n: characters so far
      if (n >= min && (!max || n <= *max)) g_.read_to(at, "\"", kEnd);
      if (max ? n >= *max : n >= min) break;
      at = g_.called(at, json_.character());
    }
    if (!max) json_.add_character(at, at);
  }

  void allow(const Task& task, const Keywords& keywords) {
    for (const auto& [keyword, value] : task.schema->items())
      if (!contains(kAnnotations, keyword) && !contains(keywords, keyword)) {
        std::string beside;
        for (std::string_view k : keywords) beside += (beside.empty() ? "" : ", ") + std::string(k);
        refuse(task.path + "/" + keyword, beside);
      }
  }

  [[noreturn]] static void refuse(const std::string& path, const std::string& beside) {
    throw Unsupported(cat(printable(path, 200), ": keyword that cannot be guaranteed here; supported: ", beside));
  }
  static void expect(bool ok, const json& got, const std::string& path, std::string_view expected) {
    if (!ok) throw FormatError(cat(printable(path, 200), ": expected ", expected, ", got ", printable(got.dump(), 60)));
  }

  Grammar& g_;
  JsonGrammar json_;
  NumberRange integers_, numbers_;
  const json& root_;
  std::unordered_map<const json*, Node> rules_;
  std::deque<Task> pending_;
};

}  // namespace

Grammar::Node add_json_object(Grammar& grammar) { return JsonGrammar(grammar).object(); }

Grammar json_object_grammar() {
  Grammar grammar;
  grammar.finish(add_json_object(grammar));
  return grammar;
}

Grammar json_schema_grammar(std::string_view schema, const std::string& place) {
  Grammar grammar;
  const Node start = add_json_schema(grammar, schema, place);
  try {
    grammar.finish(start);
  } catch (const FormatError& e) { throw FormatError(cat(place, ": ", e.what())); } catch (const Unsupported& e) {
    throw Unsupported(cat(place, ": ", e.what()));
  }
  return grammar;
}

Grammar::Node add_json_schema(Grammar& grammar, std::string_view schema, const std::string& place) {
  try {
    const json root = parse_schema(schema);
    return SchemaCompiler(grammar, root).run();
  } catch (const FormatError& e) { throw FormatError(cat(place, ": ", e.what())); } catch (const Unsupported& e) {
    throw Unsupported(cat(place, ": ", e.what()));
  }
}

}  // namespace linnet::runtime
