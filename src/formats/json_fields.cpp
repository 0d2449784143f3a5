#include "formats/json_fields.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "core/text.h"
#include "formats/mapped_file.h"

namespace linnet::formats {
namespace {

using nlohmann::json;

std::string key_text(std::string_view key) { return printable(key, 80); }

std::string value_text(const json* value) {
  if (!value) return "nothing";
  switch (value->type()) {
    case json::value_t::string: return '"' + printable(value->get_ref<const std::string&>(), 60) + '"';
    case json::value_t::array: return cat("an array of ", value->size());
    case json::value_t::object: return cat("an object of ", value->size());
    default: return value->dump();
  }
}

std::string integer_text(int64_t low, int64_t high) { return cat("integer in [", low, ", ", high, "]"); }

std::string number_text(double low, double high) {
  return std::isinf(low) && std::isinf(high) ? "finite number" : cat("number in [", low, ", ", high, "]");
}

// 1e3 counts as 1000, as long as double holds the integer exactly.
std::optional<int64_t> integer_of(const json& value, int64_t low, int64_t high) {
  int64_t integer = 0;
  if (value.is_number_unsigned()) {
    const auto wide = value.get<uint64_t>();
    if (wide > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    integer = static_cast<int64_t>(wide);
  } else if (value.is_number_integer()) {
    integer = value.get<int64_t>();
  } else if (value.is_number_float()) {
    const auto real = value.get<double>();
    if (real != std::trunc(real) || std::abs(real) > 0x1p53) return std::nullopt;
    integer = static_cast<int64_t>(real);
  } else {
    return std::nullopt;
  }
  if (integer < low || integer > high) return std::nullopt;
  return integer;
}

struct Document {
  std::string place;
  json root;
  std::unordered_set<const json*> asked;   // values that a getter named
  std::unordered_set<const json*> opened;  // objects that object() or objects() gave out
};

}  // namespace

struct JsonFields::Object {
  std::shared_ptr<Document> document;
  const json* value;
  std::string path;  // "", "linear_attn_config"

  const json* peek(std::string_view key) const {
    const auto it = value->find(key);
    return it == value->end() ? nullptr : &*it;
  }
  // The value, or none when absent or null; either way it has been asked for.
  const json* ask(std::string_view key) const {
    const json* field = peek(key);
    if (field) document->asked.insert(field);
    return field && !field->is_null() ? field : nullptr;
  }
  std::string path_of(std::string_view key) const { return (path.empty() ? "" : path + ".") + key_text(key); }

  JsonFieldError error(const std::string& at, const json* got, std::string_view expected) const {
    return {cat(document->place, ": ", at, ": expected ", expected, ", got ", value_text(got)), at};
  }
  // Converts the value of a key; `convert` gives none where the value is not what is expected.
  template <class Convert>
  auto optional(std::string_view key, const std::string& expected, Convert convert) const -> decltype(convert(*value)) {
    const json* field = ask(key);
    if (!field) return std::nullopt;
    auto result = convert(*field);
    if (!result) throw error(path_of(key), field, expected);
    return result;
  }
  template <class T, class Convert>
  std::optional<std::vector<T>> optional_array(std::string_view key, const std::string& expected,
                                               Convert convert) const {
    const json* field = ask(key);
    if (!field) return std::nullopt;
    if (!field->is_array()) throw error(path_of(key), field, "array of " + expected);
    std::vector<T> result;
    result.reserve(field->size());
    for (const json& element : *field) {
      auto item = convert(element);
      if (!item) throw error(cat(path_of(key), "[", result.size(), "]"), &element, expected);
      result.push_back(std::move(*item));
    }
    return result;
  }
  JsonFields open(const json& object, std::string at) const {
    document->opened.insert(&object);
    return JsonFields(std::make_shared<const Object>(Object{document, &object, std::move(at)}));
  }
  template <class T>
  T required(std::optional<T> result, std::string_view key, const std::string& expected) const {
    if (!result) throw error(path_of(key), peek(key), expected);
    return std::move(*result);
  }
  void list_unread(std::vector<std::string>& unread) const;
};

JsonFields JsonFields::parse(std::string_view text, std::string place, const JsonLimits& limits) {
  check_json(text, place, limits);
  auto document = std::make_shared<Document>();
  document->place = std::move(place);
  document->root = json::parse(text);
  if (!document->root.is_object())
    throw FormatError(cat(document->place, ": expected a JSON object, got ", value_text(&document->root)));
  const json* root = &document->root;
  return JsonFields(std::make_shared<const Object>(Object{std::move(document), root, ""}));
}

JsonFields JsonFields::read(const std::filesystem::path& file, size_t max_bytes) {
  return parse(read_text_file(file, max_bytes), file.string());
}

bool JsonFields::has(std::string_view key) const {
  const json* field = object_->peek(key);
  return field && !field->is_null();
}

JsonKind JsonFields::kind(std::string_view key) const {
  const json* field = object_->peek(key);
  if (!field) return JsonKind::absent;
  switch (field->type()) {
    case json::value_t::boolean: return JsonKind::boolean;
    case json::value_t::number_integer:
    case json::value_t::number_unsigned: return JsonKind::integer;
    case json::value_t::number_float: return JsonKind::number;
    case json::value_t::string: return JsonKind::string;
    case json::value_t::array: return JsonKind::array;
    case json::value_t::object: return JsonKind::object;
    default: return JsonKind::null;
  }
}

std::vector<std::string> JsonFields::keys() const {
  std::vector<std::string> names;
  for (const auto& [key, value] : object_->value->items()) names.push_back(key);
  return names;
}

std::optional<int64_t> JsonFields::optional_integer(std::string_view key, int64_t low, int64_t high) const {
  return object_->optional(key, integer_text(low, high),
                           [&](const json& value) { return integer_of(value, low, high); });
}

std::optional<double> JsonFields::optional_number(std::string_view key, double low, double high) const {
  return object_->optional(key, number_text(low, high), [&](const json& value) -> std::optional<double> {
    if (!value.is_number()) return std::nullopt;
    const auto number = value.get<double>();
    if (!(number >= low && number <= high)) return std::nullopt;
    return number;
  });
}

std::optional<bool> JsonFields::optional_boolean(std::string_view key) const {
  return object_->optional(key, "true or false", [](const json& value) -> std::optional<bool> {
    return value.is_boolean() ? std::optional(value.get<bool>()) : std::nullopt;
  });
}

std::optional<std::string> JsonFields::optional_string(std::string_view key) const {
  return object_->optional(key, "string", [](const json& value) -> std::optional<std::string> {
    return value.is_string() ? std::optional(value.get<std::string>()) : std::nullopt;
  });
}

std::optional<std::vector<int64_t>> JsonFields::optional_integers(std::string_view key, int64_t low,
                                                                  int64_t high) const {
  return object_->optional_array<int64_t>(key, integer_text(low, high),
                                          [&](const json& value) { return integer_of(value, low, high); });
}

std::optional<std::vector<std::string>> JsonFields::optional_strings(std::string_view key) const {
  return object_->optional_array<std::string>(key, "string", [](const json& value) -> std::optional<std::string> {
    return value.is_string() ? std::optional(value.get<std::string>()) : std::nullopt;
  });
}

std::optional<JsonFields> JsonFields::optional_object(std::string_view key) const {
  return object_->optional(key, "object", [&](const json& value) -> std::optional<JsonFields> {
    return value.is_object() ? std::optional(object_->open(value, object_->path_of(key))) : std::nullopt;
  });
}

int64_t JsonFields::integer(std::string_view key, int64_t low, int64_t high) const {
  return object_->required(optional_integer(key, low, high), key, integer_text(low, high));
}
double JsonFields::number(std::string_view key, double low, double high) const {
  return object_->required(optional_number(key, low, high), key, number_text(low, high));
}
bool JsonFields::boolean(std::string_view key) const {
  return object_->required(optional_boolean(key), key, "true or false");
}
std::string JsonFields::string(std::string_view key) const {
  return object_->required(optional_string(key), key, "string");
}
std::vector<int64_t> JsonFields::integers(std::string_view key, int64_t low, int64_t high) const {
  return object_->required(optional_integers(key, low, high), key, "array of " + integer_text(low, high));
}
std::vector<std::string> JsonFields::strings(std::string_view key) const {
  return object_->required(optional_strings(key), key, "array of string");
}
JsonFields JsonFields::object(std::string_view key) const {
  return object_->required(optional_object(key), key, "object");
}
std::vector<JsonFields> JsonFields::objects(std::string_view key) const {
  const auto elements = object_->required(
      object_->optional_array<const json*>(key, "object",
                                           [](const json& value) -> std::optional<const json*> {
                                             return value.is_object() ? std::optional(&value) : std::nullopt;
                                           }),
      key, "array of object");
  std::vector<JsonFields> result;
  for (const json* element : elements)
    result.push_back(object_->open(*element, cat(object_->path_of(key), "[", result.size(), "]")));
  return result;
}

std::optional<std::string> JsonFields::optional_json(std::string_view key) const {
  const json* field = object_->ask(key);
  return field ? std::optional(field->dump()) : std::nullopt;
}

void JsonFields::ignore(std::string_view key) const { object_->ask(key); }

void JsonFields::Object::list_unread(std::vector<std::string>& unread) const {
  const auto descend = [&](const json& child, std::string at) {
    if (document->opened.contains(&child)) Object{document, &child, std::move(at)}.list_unread(unread);
  };
  for (const auto& [key, field] : value->items()) {
    if (!document->asked.contains(&field)) {
      unread.push_back(path_of(key));
    } else if (field.is_array()) {
      for (size_t i = 0; i < field.size(); ++i) descend(field[i], cat(path_of(key), "[", i, "]"));
    } else {
      descend(field, path_of(key));
    }
  }
}

std::vector<std::string> JsonFields::unread_keys() const {
  std::vector<std::string> unread;
  Object{object_->document, object_->value, ""}.list_unread(unread);
  return unread;
}

void JsonFields::refuse_unread_keys() const {
  std::vector<std::string> unread;
  object_->list_unread(unread);
  if (!unread.empty()) throw FormatError(cat(object_->document->place, ": ", unread.front(), ": unknown key"));
}

std::string JsonFields::place(std::string_view key) const {
  return cat(object_->document->place, ": ", object_->path_of(key));
}

JsonFieldError JsonFields::error(std::string_view key, std::string_view expected) const {
  return object_->error(object_->path_of(key), object_->peek(key), expected);
}

}  // namespace linnet::formats
