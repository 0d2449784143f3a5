// Methods of str, list and dict, and the functions that every template has.
#include <algorithm>
#include <array>

#include "core/text.h"
#include "formats/jinja_context.h"

namespace linnet::formats::jinja {

namespace {

using Method = Value (*)(Context&, const Value& self, Args&);

// ---- str ----

const Text& text(const Value& self) { return *self.text(); }

Value strip_method(const Value& self, Args& args, bool left, bool right) {
  const std::optional<Value> chars = args.take("chars");
  if (!chars || chars->is_none()) return Value(Text(strip(text(self), {}, left, right)));
  if (!chars->text()) throw Fault{cat("strip: expected a str, got ", chars->type_name())};
  return Value(Text(strip(text(self), TextView(*chars->text()), left, right)));
}

Value starts_or_ends(const Value& self, Args& args, bool starts) {
  const Value affix = args.need("affix");
  const auto matches = [&](const Value& value) {
    if (!value.text())
      throw Fault{cat("startswith, endswith: expected a str or a tuple of str, got ", value.type_name())};
    return starts ? text(self).starts_with(*value.text()) : text(self).ends_with(*value.text());
  };
  if (!affix.list() || !affix.list()->tuple) return Value(matches(affix));
  return Value(std::any_of(affix.list()->items.begin(), affix.list()->items.end(), matches));
}

// Python's split(): without a separator, on runs of white space.
Value split_method(Context& context, const Value& self, Args& args, bool from_right) {
  const std::optional<Value> separator = args.take("sep");
  int64_t left = args.take_integer("maxsplit", -1);
  TextView rest = text(self);
  std::vector<Value> parts;
  const auto add = [&](TextView part) {
    context.charge(3 * Context::kElementCost);
    parts.push_back(Value(Text(part)));
  };
  if (!separator || separator->is_none()) {
    const auto is_space = [](char32_t c) { return strip(TextView(&c, 1), {}, true, false).empty(); };
    if (from_right && left >= 0) throw Fault{"rsplit: expected a separator with maxsplit, got none"};
    for (rest = strip(rest, {}, true, false); !rest.empty(); rest = strip(rest, {}, true, false)) {
      const auto end = left-- == 0 ? rest.end() : std::find_if(rest.begin(), rest.end(), is_space);
      add(rest.substr(0, static_cast<size_t>(end - rest.begin())));
      rest.remove_prefix(static_cast<size_t>(end - rest.begin()));
    }
    return make_list(std::move(parts));
  }
  if (!separator->text() || separator->text()->empty())
    throw Fault{"split: expected a separator of one or more characters"};
  const TextView sep = *separator->text();
  context.charge(search_cost(rest, sep));
  for (size_t at; left != 0 && (at = from_right ? rest.rfind(sep) : rest.find(sep)) != rest.npos; --left) {
    add(from_right ? rest.substr(at + sep.size()) : rest.substr(0, at));
    rest = from_right ? rest.substr(0, at) : rest.substr(at + sep.size());
  }
  add(rest);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return make_list(std::move(parts));
}

Value splitlines_method(Context& context, const Value& self, Args&) {
  std::vector<Value> lines;
  for (TextView rest = text(self); !rest.empty();) {
    const auto is_break = [](char32_t c) {
      const char32_t code = code_of(c);
      return (code >= 0x0a && code <= 0x0d) || (code >= 0x1c && code <= 0x1e) || code == 0x85 || code == 0x2028 ||
             code == 0x2029;
    };
    const auto end = static_cast<size_t>(std::find_if(rest.begin(), rest.end(), is_break) - rest.begin());
    context.charge(3 * Context::kElementCost);
    lines.push_back(Value(Text(rest.substr(0, end))));
    const bool crlf = rest.substr(end).starts_with(U"\r\n");
    rest.remove_prefix(std::min(rest.size(), end + (crlf ? 2 : 1)));
  }
  return make_list(std::move(lines));
}

Value find_method(Context& context, const Value& self, Args& args, bool last) {
  const Text what = args.need_text("sub");
  context.charge(search_cost(text(self), what));
  const size_t at = last ? text(self).rfind(what) : text(self).find(what);
  return Value(at == Text::npos ? int64_t{-1} : static_cast<int64_t>(at));
}

Value count_text(Context& context, const Value& self, Args& args) {
  const Text what = args.need_text("sub");
  context.charge(search_cost(text(self), what));
  if (what.empty()) return Value(static_cast<int64_t>(text(self).size() + 1));
  int64_t n = 0;
  for (size_t at = text(self).find(what); at != Text::npos; at = text(self).find(what, at + what.size())) ++n;
  return Value(n);
}

Value replace_method(Context& context, const Value& self, Args& args) {
  const Text from = args.need_text("old"), to = args.need_text("new");
  const size_t longest = text(self).size() + (text(self).size() / std::max<size_t>(1, from.size()) + 1) * to.size();
  context.charge(search_cost(text(self), from) + longest);
  return Value(replace(text(self), from, to, args.take_integer("count", -1)));
}

Value join_method(Context& context, const Value& self, Args& args) {
  Text out;
  const std::vector<Value> items = items_of(context, args.need("iterable"));
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].text()) throw Fault{cat("join: expected str items, got ", items[i].type_name())};
    context.charge(items[i].text()->size() + text(self).size());
    if (i > 0) out += text(self);
    out += *items[i].text();
  }
  return Value(std::move(out));
}

// ---- list, dict ----

Value index_of(Context& context, const Value& self, Args& args) {
  const Value item = args.need("value");
  context.charge(self.weight());
  const std::vector<Value>& items = self.list()->items;
  const auto at = std::find_if(items.begin(), items.end(), [&](const Value& v) { return equal(v, item); });
  if (at == items.end()) throw Fault{"index: expected an item of the list, got another value"};
  return Value(at - items.begin());
}

Value count_items(Context& context, const Value& self, Args& args) {
  const Value item = args.need("value");
  context.charge(self.weight());
  const std::vector<Value>& items = self.list()->items;
  return Value(std::count_if(items.begin(), items.end(), [&](const Value& v) { return equal(v, item); }));
}

Value dict_items(Context& context, const Value& self, Args&) {
  std::vector<Value> pairs;
  context.charge(4 * Context::kElementCost * self.dict()->items.size());
  for (const auto& [key, value] : self.dict()->items) pairs.push_back(make_list({key, value}, true));
  return make_list(std::move(pairs));
}

Value dict_values(Context&, const Value& self, Args&) {
  std::vector<Value> values;
  for (const auto& [key, value] : self.dict()->items) values.push_back(value);
  return make_list(std::move(values));
}

Value dict_get(Context&, const Value& self, Args& args) {
  const Value key = args.need("key");
  const Value otherwise = args.take("default").value_or(Value(None{}));
  const Value* value = self.dict()->find(key);
  return value ? *value : otherwise;
}

struct Named {
  const char* name;
  Method method;
};

constexpr Named kTextMethods[] = {
    {"strip", [](Context&, const Value& s, Args& a) { return strip_method(s, a, true, true); }},
    {"lstrip", [](Context&, const Value& s, Args& a) { return strip_method(s, a, true, false); }},
    {"rstrip", [](Context&, const Value& s, Args& a) { return strip_method(s, a, false, true); }},
    {"startswith", [](Context&, const Value& s, Args& a) { return starts_or_ends(s, a, true); }},
    {"endswith", [](Context&, const Value& s, Args& a) { return starts_or_ends(s, a, false); }},
    {"split", [](Context& c, const Value& s, Args& a) { return split_method(c, s, a, false); }},
    {"rsplit", [](Context& c, const Value& s, Args& a) { return split_method(c, s, a, true); }},
    {"splitlines", splitlines_method},
    {"upper", [](Context&, const Value& s, Args&) { return Value(upper(text(s))); }},
    {"lower", [](Context&, const Value& s, Args&) { return Value(lower(text(s))); }},
    {"title", [](Context&, const Value& s, Args&) { return Value(title(text(s))); }},
    {"capitalize", [](Context&, const Value& s, Args&) { return Value(capitalize(text(s))); }},
    {"replace", replace_method},
    {"find", [](Context& c, const Value& s, Args& a) { return find_method(c, s, a, false); }},
    {"rfind", [](Context& c, const Value& s, Args& a) { return find_method(c, s, a, true); }},
    {"count", count_text},
    {"join", join_method},
};
constexpr Named kListMethods[] = {{"index", index_of}, {"count", count_items}};
constexpr Named kDictMethods[] = {
    {"items", dict_items},
    {"keys", [](Context& c, const Value& s, Args&) { return make_list(items_of(c, s)); }},
    {"values", dict_values},
    {"get", dict_get},
};

class BoundMethod final : public Object {
 public:
  BoundMethod(Value self, const Named& named) : self_(std::move(self)), named_(named) {}
  const char* type_name() const override { return "method"; }
  bool callable() const override { return true; }
  Value call(Context& context, Args& args) override {
    if (self_.text()) context.charge(self_.text()->size());
    const Value result = named_.method(context, self_, args);
    args.done();
    return result;
  }

 private:
  const Value self_;
  const Named& named_;
};

// ---- functions ----

class Namespace final : public Object {
 public:
  const char* type_name() const override { return "namespace"; }
  Value attribute(const std::string& name) const override {
    const Value* value = values_.find(name);
    return value ? *value : Value(Undefined{name});
  }
  void set_attribute(const std::string& name, Value value) override { values_.set(name, std::move(value)); }

 private:
  Scope values_;
};

class Function final : public Object {
 public:
  explicit Function(Value (*function)(Context&, Args&)) : function_(function) {}
  const char* type_name() const override { return "function"; }
  bool callable() const override { return true; }
  Value call(Context& context, Args& args) override { return function_(context, args); }

 private:
  Value (*function_)(Context&, Args&);
};

Value range_function(Context& context, Args& args) {
  const int64_t n_arguments = static_cast<int64_t>(args.positional.size());
  const int64_t first = args.take_integer("start", 0);
  const int64_t start = n_arguments > 1 ? first : 0, stop = n_arguments > 1 ? args.take_integer("stop", 0) : first;
  const int64_t step = args.take_integer("step", 1);
  args.done();
  if (n_arguments == 0 || step == 0) throw Fault{"range: expected an end, and a step other than 0"};
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    context.charge(Context::kElementCost);
    items.push_back(Value(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return make_list(std::move(items));
}

Value namespace_function(Context& context, Args& args) {
  const Value value = context.make_object<Namespace>();
  for (const auto& [name, initial] : args.named) value.object()->set_attribute(name, initial);
  args.named.clear();
  args.done();
  return value;
}

Value dict_function(Context&, Args& args) {
  std::vector<std::pair<Value, Value>> items;
  if (const std::optional<Value> from = args.positional.empty() ? std::nullopt : args.take("from")) {
    if (!from->dict()) throw Fault{cat("dict: expected a dict, got ", from->type_name())};
    items = from->dict()->items;
  }
  for (const auto& [name, value] : args.named) items.emplace_back(make_text(name), value);
  args.named.clear();
  args.done();
  return make_dict(std::move(items));
}

Value raise_function(Context&, Args& args) { throw Refusal{utf8_of(str(args.need("message")))}; }

}  // namespace

Value bound_method(Context& context, const Value& self, const std::string& name) {
  const auto bind = [&](const auto& methods) {
    for (const Named& named : methods) {
      if (name == named.name) return context.make_object<BoundMethod>(self, named);
    }
    return Value();
  };
  return self.text()   ? bind(kTextMethods)
         : self.list() ? bind(kListMethods)
         : self.dict() ? bind(kDictMethods)
                       : Value();
}

void add_builtin_functions(Context& context) {
  context.globals().set("range", context.make_object<Function>(range_function));
  context.globals().set("namespace", context.make_object<Function>(namespace_function));
  context.globals().set("dict", context.make_object<Function>(dict_function));
  context.globals().set("raise_exception", context.make_object<Function>(raise_function));
}

}  // namespace linnet::formats::jinja
