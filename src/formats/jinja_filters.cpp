// Filters (value | name), as Jinja2 3.1 defines them.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/function_ref.h"
#include "core/text.h"
#include "formats/jinja_context.h"

namespace linnet::formats::jinja {

namespace {

// ---- helpers ----

Text text_input(Context& context, const Value& input) {
  context.charge(input.weight());
  return str(input);
}

// "a.b.0" of map(attribute=..), sort(attribute=..) and the like.
Value dotted(Context& context, Value value, const Text& path) {
  for (TextView rest = path;;) {
    const size_t dot = std::min(rest.find(U'.'), rest.size());
    const std::string part = utf8_of(rest.substr(0, dot));
    int64_t index = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = error == std::errc{} && end == part.data() + part.size();
    value = item_of(context, value, is_index ? Value(index) : make_text(part));
    if (dot == rest.size()) return value;
    rest.remove_prefix(dot + 1);
  }
}

std::vector<Value> sorted(Context& context, std::vector<Value> items, bool reverse,
                          FunctionRef<Value(const Value&)> key_of) {
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& item : items) {
    Value key = key_of(item);
    context.charge(key.weight() * 8);  // a comparison reads at most the shorter key; log2 of what fits in the budget
    keyed.emplace_back(std::move(key), std::move(item));
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    context.charge(1);
    return reverse ? compare(b.first, a.first) < 0 : compare(a.first, b.first) < 0;
  });
  items.clear();
  for (auto& [key, item] : keyed) items.push_back(std::move(item));
  return items;
}

Value folded(const Value& value, bool case_sensitive) {
  return value.text() && !case_sensitive ? Value(lower(*value.text())) : value;
}

// ---- text ----

Value trim(Context& context, const Value& input, Args& args) {
  const Text text = text_input(context, input);
  const std::optional<Value> chars = args.take("chars");
  return Value(Text(strip(text, chars && chars->text() ? TextView(*chars->text()) : TextView(), true, true)));
}

template <Text (*kChange)(TextView)>
Value change_case(Context& context, const Value& input, Args&) {
  return Value(kChange(text_input(context, input)));
}

Value replace_filter(Context& context, const Value& input, Args& args) {
  const Text text = text_input(context, input), from = args.need_text("old"), to = args.need_text("new");
  const size_t longest = text.size() + (text.size() / std::max<size_t>(1, from.size()) + 1) * to.size();
  context.charge(search_cost(text, from) + longest);
  return Value(replace(text, from, to, args.take_integer("count", -1)));
}

Value indent(Context& context, const Value& input, Args& args) {
  const std::optional<Value> width = args.take("width");
  const Text margin =
      width && width->text()
          ? *width->text()
          : Text(static_cast<size_t>(std::clamp<int64_t>(width ? width->integer().value_or(4) : 4, 0, 1000)), U' ');
  const bool first = args.take_boolean("first", false), blank = args.take_boolean("blank", false);
  if (!input.text()) throw Fault{cat("indent: expected a str, got ", input.type_name())};
  const Text text = text_input(context, input) + U"\n";  // so that the last line ends like the others
  Text out;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find(U'\n', begin);
    context.charge(end - begin + margin.size());
    if (begin == 0 ? first : blank || end > begin) out += margin;
    out.append(text, begin, end + 1 - begin);
    begin = end + 1;
  }
  out.pop_back();
  return Value(std::move(out));
}

Value to_text(Context& context, const Value& input, Args&) { return Value(text_input(context, input)); }

Value to_json_filter(Context& context, const Value& input, Args& args) { return to_json(context, input, args); }

// ---- numbers ----

// Beyond 64 bits Python goes on counting; here that is an error.
Value integer_of(double number) {
  if (std::isfinite(number) && std::abs(number) >= 0x1p63) throw Fault{"int: expected a 64-bit result, got more"};
  return Value(static_cast<int64_t>(number));
}

Value to_integer(Context& context, const Value& input, Args& args) {
  const int64_t otherwise = args.take_integer("default", 0);
  if (input.is_undefined()) throw Fault{input.undefined_text()};
  if (const auto i = input.integer()) return Value(*i);
  if (input.is_real()) return std::isfinite(input.number()) ? integer_of(input.number()) : Value(otherwise);
  const std::string digits = utf8_of(strip(text_input(context, input), {}, true, true));
  double number = 0;
  int64_t integer = 0;
  const char *begin = digits.data() + digits.starts_with('+'), *end = digits.data() + digits.size();
  if (const auto r = std::from_chars(begin, end, integer); r.ec == std::errc{} && r.ptr == end) return Value(integer);
  const auto r = std::from_chars(begin, end, number);
  const bool good = r.ec == std::errc{} && r.ptr == end && begin != end && std::isfinite(number);
  return good ? integer_of(number) : Value(otherwise);
}

Value to_float(Context& context, const Value& input, Args&) {
  if (input.is_undefined()) throw Fault{input.undefined_text()};
  if (input.is_number()) return Value(input.number());
  const std::string digits = utf8_of(strip(text_input(context, input), {}, true, true));
  double number = 0;
  const auto r = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  return Value(r.ec == std::errc{} && r.ptr == digits.data() + digits.size() ? number : 0.0);
}

Value length(Context&, const Value& input, Args&) {
  if (const Text* text = input.text()) return Value(static_cast<int64_t>(text->size()));
  if (const List* list = input.list()) return Value(static_cast<int64_t>(list->items.size()));
  if (const Dict* dict = input.dict()) return Value(static_cast<int64_t>(dict->items.size()));
  if (input.is_undefined()) return Value(int64_t{0});
  throw Fault{cat("length: expected a str, list or dict, got ", input.type_name())};
}

// ---- lists ----

Value default_filter(Context&, const Value& input, Args& args) {
  const Value otherwise = args.take("default_value").value_or(Value(Text()));
  const bool also_false = args.take_boolean("boolean", false);
  return input.is_undefined() || (also_false && !input.truth()) ? otherwise : input;
}

Value first(Context& context, const Value& input, Args&) {
  if (const List* list = input.list()) return list->items.empty() ? Value(Undefined{"first"}) : list->items.front();
  const std::vector<Value> items = items_of(context, input);
  return items.empty() ? Value(Undefined{"first"}) : items.front();
}

Value last(Context& context, const Value& input, Args&) {
  if (const List* list = input.list()) return list->items.empty() ? Value(Undefined{"last"}) : list->items.back();
  const std::vector<Value> items = items_of(context, input);
  return items.empty() ? Value(Undefined{"last"}) : items.back();
}

Value join(Context& context, const Value& input, Args& args) {
  const Text separator = args.positional.empty() && args.named.empty() ? Text() : str(args.take("d").value_or(Value()));
  const std::optional<Value> attribute = args.take("attribute");
  Text out;
  const std::vector<Value> items = items_of(context, input);
  for (size_t i = 0; i < items.size(); ++i) {
    const Value item = attribute ? dotted(context, items[i], str(*attribute)) : items[i];
    context.charge(item.weight() + separator.size());
    if (i > 0) out += separator;
    out += str(item);
  }
  return Value(std::move(out));
}

Value list(Context& context, const Value& input, Args&) { return make_list(items_of(context, input)); }

Value reverse(Context& context, const Value& input, Args&) {
  if (const Text* text = input.text()) return Value(Text(text->rbegin(), text->rend()));
  std::vector<Value> items = items_of(context, input);
  std::reverse(items.begin(), items.end());
  return make_list(std::move(items));
}

Value unique(Context& context, const Value& input, Args& args) {
  const bool case_sensitive = args.take_boolean("case_sensitive", false);
  std::vector<Value> kept, keys;
  for (const Value& item : items_of(context, input)) {
    Value key = folded(item, case_sensitive);
    const bool seen = std::any_of(keys.begin(), keys.end(), [&](const Value& other) {
      context.charge(std::min(key.weight(), other.weight()));
      return equal(key, other);
    });
    if (seen) continue;
    keys.push_back(std::move(key));
    kept.push_back(item);
  }
  return make_list(std::move(kept));
}

Value sort(Context& context, const Value& input, Args& args) {
  const bool reversed = args.take_boolean("reverse", false),
             case_sensitive = args.take_boolean("case_sensitive", false);
  const std::optional<Value> attribute = args.take("attribute");
  return make_list(sorted(context, items_of(context, input), reversed, [&](const Value& item) {
    return folded(attribute ? dotted(context, item, str(*attribute)) : item, case_sensitive);
  }));
}

Value items(Context& context, const Value& input, Args&) {
  if (input.is_undefined()) return make_list({});
  if (!input.dict()) throw Fault{cat("items: expected a dict, got ", input.type_name())};
  std::vector<Value> pairs;
  context.charge(4 * Context::kElementCost * input.dict()->items.size());
  for (const auto& [key, value] : input.dict()->items) pairs.push_back(make_list({key, value}, true));
  return make_list(std::move(pairs));
}

Value dictsort(Context& context, const Value& input, Args& args) {
  const bool case_sensitive = args.take_boolean("case_sensitive", false);
  const std::optional<Value> by = args.take("by");
  const bool reversed = args.take_boolean("reverse", false);
  const size_t part = by && by->text() && *by->text() == U"value" ? 1 : 0;
  Args none;
  return make_list(sorted(context, items(context, input, none).list()->items, reversed,
                          [&](const Value& pair) { return folded(pair.list()->items[part], case_sensitive); }));
}

Value extreme(Context& context, const Value& input, int sign) {
  std::optional<Value> best;
  for (const Value& item : items_of(context, input)) {
    context.charge(item.weight());
    const Value key = folded(item, false);
    if (!best || compare(key, folded(*best, false)) * sign > 0) best = item;
  }
  return best.value_or(Value(Undefined{sign > 0 ? "max" : "min"}));
}

// map("upper"), map("trim", chars), map(attribute="name", default=..)
Value map(Context& context, const Value& input, Args& args) {
  std::vector<Value> mapped;
  if (!input.truth()) return args = {}, make_list({});  // even of none, 0 and false
  if (args.positional.empty()) {
    const Text attribute = args.need_text("attribute");
    const std::optional<Value> otherwise = args.take("default");
    for (const Value& item : items_of(context, input)) {
      Value value = dotted(context, item, attribute);
      mapped.push_back(value.is_undefined() && otherwise ? *otherwise : std::move(value));
    }
    return make_list(std::move(mapped));
  }
  const std::string name = utf8_of(args.need_text("filter"));
  const Filter filter = find_filter(name);
  if (!filter) throw Fault{cat("map: unknown filter ", printable(name, 40))};
  for (const Value& item : items_of(context, input)) {
    Args copy = args;
    mapped.push_back(context.charged(filter(context, item, copy)));
    copy.done();
  }
  args = {};
  return make_list(std::move(mapped));
}

// select("test", arguments), selectattr("attribute", "test", arguments), and the same for what does not pass.
Value select(Context& context, const Value& input, Args& args, bool by_attribute, bool wanted) {
  if (!input.truth()) return args = {}, make_list({});
  const Text attribute = by_attribute ? args.need_text("attribute") : Text();
  const std::optional<Value> test_name = args.take("test");
  const std::string name = test_name ? utf8_of(str(*test_name)) : "";
  const Test test = test_name ? find_test(name) : nullptr;
  if (test_name && !test) throw Fault{cat("select: unknown test ", printable(name, 40))};
  std::vector<Value> kept;
  for (const Value& item : items_of(context, input)) {
    const Value value = by_attribute ? dotted(context, item, attribute) : item;
    Args copy = args;
    if ((test ? test(context, value, copy) : value.truth()) == wanted) kept.push_back(item);
    if (test) copy.done();
  }
  args = {};
  return make_list(std::move(kept));
}

struct NamedFilter {
  std::string_view name;
  Filter filter;
};
constexpr NamedFilter kFilters[] = {
    {"abs",
     [](Context&, const Value& v, Args&) {
       if (!v.is_number()) throw Fault{cat("abs: expected a number, got ", v.type_name())};
       return v.integer() && *v.integer() != INT64_MIN ? Value(std::abs(*v.integer())) : Value(std::abs(v.number()));
     }},
    {"capitalize", change_case<capitalize>},
    {"count", length},
    {"d", default_filter},
    {"default", default_filter},
    {"dictsort", dictsort},
    {"first", first},
    {"float", to_float},
    {"indent", indent},
    {"int", to_integer},
    {"items", items},
    {"join", join},
    {"last", last},
    {"length", length},
    {"list", list},
    {"lower", change_case<lower>},
    {"map", map},
    {"max", [](Context& c, const Value& v, Args&) { return extreme(c, v, 1); }},
    {"min", [](Context& c, const Value& v, Args&) { return extreme(c, v, -1); }},
    {"reject", [](Context& c, const Value& v, Args& a) { return select(c, v, a, false, false); }},
    {"rejectattr", [](Context& c, const Value& v, Args& a) { return select(c, v, a, true, false); }},
    {"replace", replace_filter},
    {"reverse", reverse},
    {"safe", to_text},
    {"select", [](Context& c, const Value& v, Args& a) { return select(c, v, a, false, true); }},
    {"selectattr", [](Context& c, const Value& v, Args& a) { return select(c, v, a, true, true); }},
    {"sort", sort},
    {"string", to_text},
    {"title", change_case<title_filter>},
    {"tojson", to_json_filter},
    {"trim", trim},
    {"unique", unique},
    {"upper", change_case<upper>},
};

}  // namespace

Filter find_filter(std::string_view name) {
  const auto row =
      std::find_if(std::begin(kFilters), std::end(kFilters), [&](const auto& r) { return r.name == name; });
  return row == std::end(kFilters) ? nullptr : row->filter;
}

}  // namespace linnet::formats::jinja
