#include "formats/jinja_context.h"

#include <algorithm>

#include "core/text.h"

namespace linnet::formats::jinja {

void Scope::set(const std::string& name, Value value) {
  for (auto& [n, v] : names_) {
    if (n == name) {
      v = std::move(value);
      return;
    }
  }
  names_.emplace_back(name, std::move(value));
}

const Value* Scope::find(const std::string& name) const {
  for (const Scope* scope = this; scope; scope = scope->parent_) {
    for (const auto& [n, v] : scope->names_) {
      if (n == name) return &v;
    }
  }
  return nullptr;
}

std::optional<Value> Args::take(const char* name) {
  if (next < positional.size()) return positional[next++];
  const auto at =
      std::find_if(named.begin(), named.end(), [&](const auto& argument) { return argument.first == name; });
  if (at == named.end()) return std::nullopt;
  std::optional<Value> value = at->second;
  named.erase(at);
  return value;
}

Value Args::need(const char* name) {
  std::optional<Value> value = take(name);
  if (!value) throw Fault{cat("call: expected the argument ", name, ", got none")};
  return *value;
}

Text Args::need_text(const char* name) {
  const Value value = need(name);
  if (!value.text()) throw Fault{cat("argument ", name, ": expected a str, got ", value.type_name())};
  return *value.text();
}

int64_t Args::take_integer(const char* name, int64_t otherwise) {
  const std::optional<Value> value = take(name);
  if (!value) return otherwise;
  if (!value->integer()) throw Fault{cat("argument ", name, ": expected an int, got ", value->type_name())};
  return *value->integer();
}

bool Args::take_boolean(const char* name, bool otherwise) {
  const std::optional<Value> value = take(name);
  return value ? value->truth() : otherwise;
}

void Args::done() const {
  if (next < positional.size())
    throw Fault{cat("call: expected at most ", next, " arguments, got ", positional.size())};
  if (!named.empty()) throw Fault{cat("call: unknown argument ", printable(named.front().first, 40))};
}

std::vector<Value> items_of(Context& context, const Value& value) {
  std::vector<Value> items;
  if (const List* list = value.list()) {
    context.charge(Context::kElementCost * list->items.size());
    items = list->items;
  } else if (const Dict* dict = value.dict()) {
    context.charge(Context::kElementCost * dict->items.size());
    for (const auto& [key, v] : dict->items) items.push_back(key);
  } else if (const Text* text = value.text()) {
    context.charge(3 * Context::kElementCost * text->size());  // a character becomes a text of its own
    for (char32_t c : *text) items.push_back(Value(Text(1, c)));
  } else if (!value.is_undefined()) {
    throw Fault{cat("iteration: expected a list, dict or str, got ", value.type_name())};
  }
  return items;
}

// As Jinja: an attribute of the Python object goes before an item of that name, so that {"items": 1}.items is the method.
Value attribute_of(Context& context, const Value& value, const std::string& name) {
  if (value.is_undefined()) throw Fault{cat(value.undefined_text(), ", so it has no .", printable(name, 40))};
  if (value.object()) return value.object()->attribute(name);
  if (Value method = bound_method(context, value, name); !method.is_undefined()) return method;
  if (const Dict* dict = value.dict()) {
    if (const Value* item = dict->find(text_of(name))) return *item;
  }
  return Value(Undefined{name});
}

Value item_of(Context& context, const Value& value, const Value& key) {
  if (value.is_undefined()) throw Fault{value.undefined_text()};
  context.charge(key.weight());
  if (const Dict* dict = value.dict()) {
    if (const Value* item = dict->find(key)) return *item;
  }
  if (const auto index = key.integer(); index && (value.list() || value.text())) {
    const auto size = static_cast<int64_t>(value.list() ? value.list()->items.size() : value.text()->size());
    const int64_t at = *index < 0 ? *index + size : *index;
    if (at < 0 || at >= size) return Value(Undefined{cat("item ", *index)});
    const auto i = static_cast<size_t>(at);
    return value.list() ? value.list()->items[i] : Value(Text(1, (*value.text())[i]));
  }
  if (!key.text()) return Value(Undefined{utf8_of(str(key))});
  const std::string name = utf8_of(*key.text());
  return value.object() ? value.object()->attribute(name) : [&] {
    Value method = bound_method(context, value, name);
    return method.is_undefined() ? Value(Undefined{name}) : method;
  }();
}

}  // namespace linnet::formats::jinja
