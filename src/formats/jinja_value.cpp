#include "formats/jinja_value.h"

#include <charconv>
#include <cmath>

#include "core/text.h"

namespace linnet::formats::jinja {

namespace {

// Adds the weight of parts to a container and checks the limits.
template <class Container>
void account(Container& container, const Value& part) {
  container.weight += part.weight();
  const uint32_t inner = part.list() ? part.list()->nesting : part.dict() ? part.dict()->nesting : 0;
  container.nesting = std::max(container.nesting, inner + 1);
  if (container.weight > kMaxWeight) throw Fault{cat("value: expected a size of at most ", kMaxWeight, ", got more")};
  if (container.nesting > kMaxNesting) throw Fault{cat("value: expected at most ", kMaxNesting, " levels, got more")};
}

bool equal_items(const List& a, const List& b) {
  return a.tuple == b.tuple && std::equal(a.items.begin(), a.items.end(), b.items.begin(), b.items.end(), equal);
}

bool equal_items(const Dict& a, const Dict& b) {
  if (a.items.size() != b.items.size()) return false;
  for (const auto& [key, value] : a.items) {
    const Value* other = b.find(key);
    if (!other || !equal(value, *other)) return false;
  }
  return true;
}

void append_repr(const Value& value, Text& out);

void append_quoted(TextView text, Text& out) {
  const char32_t quote = text.find(U'\'') != text.npos && text.find(U'"') == text.npos ? U'"' : U'\'';
  out += quote;
  for (char32_t c : text) {
    const char32_t code = code_of(c), mark = c & kForeign;
    const auto escape = [&](char32_t letter) { out += U'\\' | mark, out += letter | mark; };
    if (code == quote || code == U'\\') {
      escape(code);
    } else if (code == U'\n') {
      escape(U'n');
    } else if (code == U'\r') {
      escape(U'r');
    } else if (code == U'\t') {
      escape(U't');
    } else if (!is_printable(code)) {
      escape(code < 0x100 ? U'x' : code < 0x10000 ? U'u' : U'U');
      const int n_digits = code < 0x100 ? 2 : code < 0x10000 ? 4 : 8;
      for (int i = n_digits - 1; i >= 0; --i) {
        out += static_cast<char32_t>("0123456789abcdef"[code >> (4 * i) & 15]) | mark;
      }
    } else {
      out += c;
    }
  }
  out += quote;
}

void append_repr(const List& list, Text& out) {
  out += list.tuple ? U'(' : U'[';
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) out += U", ";
    append_repr(list.items[i], out);
  }
  if (list.tuple && list.items.size() == 1) out += U',';
  out += list.tuple ? U')' : U']';
}

void append_repr(const Dict& dict, Text& out) {
  out += U'{';
  for (size_t i = 0; i < dict.items.size(); ++i) {
    if (i > 0) out += U", ";
    append_repr(dict.items[i].first, out);
    out += U": ";
    append_repr(dict.items[i].second, out);
  }
  out += U'}';
}

void append_repr(const Value& value, Text& out) {
  if (value.is_undefined()) {
    out += U"Undefined";
  } else if (value.is_none()) {
    out += U"None";
  } else if (value.is_boolean()) {
    out += value.truth() ? U"True" : U"False";
  } else if (const auto i = value.integer()) {
    out += text_of(std::to_string(*i));
  } else if (value.is_real()) {
    out += number_text(value.number());
  } else if (const Text* text = value.text()) {
    append_quoted(*text, out);
  } else if (const List* list = value.list()) {
    append_repr(*list, out);
  } else if (const Dict* dict = value.dict()) {
    append_repr(*dict, out);
  } else {
    throw Fault{cat("output: expected a value, got a ", value.type_name())};
  }
}

}  // namespace

std::optional<int64_t> Value::integer() const {
  return is_integer() || is_boolean() ? std::optional(scalar_.integer) : std::nullopt;
}

double Value::number() const { return is_real() ? scalar_.real : static_cast<double>(scalar_.integer); }

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return number() != 0;
  if (const Text* t = text()) return !t->empty();
  if (const List* l = list()) return !l->items.empty();
  if (const Dict* d = dict()) return !d->items.empty();
  return true;
}

const char* Value::type_name() const {
  if (is_undefined()) return "undefined value";
  if (is_none()) return "None";
  if (is_boolean()) return "bool";
  if (is_integer()) return "int";
  if (is_real()) return "float";
  if (text()) return "str";
  if (const List* l = list()) return l->tuple ? "tuple" : "list";
  if (dict()) return "dict";
  return object()->type_name();
}

std::string Value::undefined_text() const {
  const auto* name = shared<std::string>(Kind::undefined);
  return name ? cat("'", printable(*name, 60), "' is undefined") : "undefined value";
}

uint64_t Value::weight() const {
  if (const Text* t = text()) return 1 + t->size();
  if (const List* l = list()) return l->weight;
  if (const Dict* d = dict()) return d->weight;
  return 1;
}

const Value* Dict::find(const Value& key) const {
  for (const auto& [k, value] : items) {
    if (equal(k, key)) return &value;
  }
  return nullptr;
}

const Value* Dict::find(TextView key) const {
  for (const auto& [k, value] : items) {
    if (const Text* text = k.text(); text && *text == key) return &value;
  }
  return nullptr;
}

Value make_list(std::vector<Value> items, bool tuple) {
  auto list = std::make_shared<List>();
  list->items = std::move(items);
  list->tuple = tuple;
  for (const Value& item : list->items) account(*list, item);
  return Value(std::shared_ptr<const List>(std::move(list)));
}

Value make_dict(std::vector<std::pair<Value, Value>> items) {
  auto dict = std::make_shared<Dict>();
  for (auto& [key, value] : items) {
    if (key.list() || key.dict() || key.object())
      throw Fault{cat("key: expected a plain value, got a ", key.type_name())};
    account(*dict, key);
    account(*dict, value);
    if (const Value* earlier = dict->find(key)) {
      *const_cast<Value*>(earlier) = std::move(value);  // still ours alone
    } else {
      dict->items.emplace_back(std::move(key), std::move(value));
    }
  }
  return Value(std::shared_ptr<const Dict>(std::move(dict)));
}

Value make_text(std::string_view utf8) { return Value(text_of(utf8)); }

void Object::set_attribute(const std::string& name, Value) {
  throw Fault{cat("set: expected a namespace before .", name, ", got a ", type_name())};
}

Value Object::call(Context&, Args&) { throw Fault{cat("call: expected a function, got a ", type_name())}; }

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    const auto x = a.integer(), y = b.integer();
    return x && y ? *x == *y : a.number() == b.number();
  }
  if (a.text() && b.text()) return *a.text() == *b.text();
  if (a.list() && b.list()) return a.list() == b.list() || equal_items(*a.list(), *b.list());
  if (a.dict() && b.dict()) return a.dict() == b.dict() || equal_items(*a.dict(), *b.dict());
  if (a.object() || b.object()) return a.object() == b.object();
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

int compare(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    const auto x = a.integer(), y = b.integer();
    if (x && y) return *x < *y ? -1 : *x > *y;
    return a.number() < b.number() ? -1 : a.number() > b.number();
  }
  if (a.text() && b.text()) return a.text()->compare(*b.text());
  if (a.list() && b.list() && a.list()->tuple == b.list()->tuple) {
    const std::vector<Value>&x = a.list()->items, &y = b.list()->items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!equal(x[i], y[i])) return compare(x[i], y[i]);
    }
    return x.size() < y.size() ? -1 : x.size() > y.size();
  }
  throw Fault{cat("order: expected values that can be compared, got ", a.type_name(), " and ", b.type_name())};
}

Text str(const Value& value) {
  if (const Text* text = value.text()) return *text;
  return value.is_undefined() ? Text() : repr(value);
}

Text repr(const Value& value) {
  Text out;
  append_repr(value, out);
  return out;
}

// Python's repr of a float: the shortest digits that read back, an exponent below 1e-4 and from 1e16 on.
Text number_text(double value) {
  if (std::isnan(value)) return U"nan";
  if (std::isinf(value)) return value < 0 ? U"-inf" : U"inf";
  const double size = std::abs(value);
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  char digits[40];
  const auto end = std::to_chars(digits, digits + sizeof digits, value,
                                 plain ? std::chars_format::fixed : std::chars_format::scientific)
                       .ptr;
  std::string text(digits, end);
  if (plain && text.find('.') == text.npos) text += ".0";
  return text_of(text);
}

}  // namespace linnet::formats::jinja
