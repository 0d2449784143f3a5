#include "formats/jinja_json.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/text.h"
#include "formats/jinja_context.h"

namespace linnet::formats::jinja {

namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxJsonDepth = 64;

Value value_of(const Json& json, const std::string& what, int depth) {
  if (depth > kMaxJsonDepth)
    throw InvalidArgument(cat(what, ": expected at most ", kMaxJsonDepth, " levels, got more"));
  switch (json.type()) {
    case Json::value_t::boolean: return Value(json.get<bool>());
    case Json::value_t::number_integer: return Value(json.get<int64_t>());
    case Json::value_t::number_float: return Value(json.get<double>());
    case Json::value_t::string: return Value(text_of(json.get_ref<const std::string&>(), Origin::foreign));
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > INT64_MAX)
        throw InvalidArgument(cat(what, ": expected 64-bit integers, got ", json.dump()));
      return Value(json.get<int64_t>());
    case Json::value_t::array: {
      std::vector<Value> items;
      for (const Json& item : json) items.push_back(value_of(item, what, depth + 1));
      return make_list(std::move(items));
    }
    case Json::value_t::object: {
      std::vector<std::pair<Value, Value>> items;
      for (const auto& [key, item] : json.items()) {
        items.emplace_back(Value(text_of(key, Origin::foreign)), value_of(item, what, depth + 1));
      }
      return make_dict(std::move(items));
    }
    default: return Value(None{});
  }
}

// json.dumps of Python with the arguments that Hugging Face's tojson passes on.
class Writer {
 public:
  Writer(Context& context, Args& args) : context_(context) {
    ascii_ = args.take_boolean("ensure_ascii", false);
    const Value indent = args.take("indent").value_or(Value(None{}));
    const Value separators = args.take("separators").value_or(Value(None{}));
    sort_keys_ = args.take_boolean("sort_keys", false);
    if (const auto width = indent.integer()) {
      indent_ = Text(static_cast<size_t>(std::clamp<int64_t>(*width, 0, 100)), U' ');
    } else if (indent.text()) {
      indent_ = *indent.text();
    }
    if (indent_) item_separator_.assign(1, U',');
    if (separators.is_none()) return;
    const List* pair = separators.list();
    if (!pair || pair->items.size() != 2 || !pair->items[0].text() || !pair->items[1].text()) {
      throw Fault{cat("tojson: separators: expected two str, got a ", separators.type_name())};
    }
    item_separator_ = *pair->items[0].text();
    key_separator_ = *pair->items[1].text();
  }

  void write(const Value& value, size_t level) {
    context_.charge(1);
    if (const Text* text = value.text()) {
      write_text(*text);
    } else if (const List* list = value.list()) {
      write_items(U'[', U']', list->items.size(), level, [&](size_t i) { write(list->items[i], level + 1); });
    } else if (const Dict* dict = value.dict()) {
      write_dict(*dict, level);
    } else {
      out += plain(value);
    }
  }

  Text out;

 private:
  static Text plain(const Value& value) {
    if (value.is_none()) return U"null";
    if (value.is_boolean()) return value.truth() ? U"true" : U"false";
    if (value.is_integer()) return str(value);
    if (value.is_real()) {
      const double d = value.number();
      return std::isnan(d) ? Text(U"NaN") : std::isinf(d) ? Text(d < 0 ? U"-Infinity" : U"Infinity") : number_text(d);
    }
    throw Fault{value.is_undefined() ? value.undefined_text()
                                     : cat("tojson: expected plain data, got a ", value.type_name())};
  }

  template <class WriteItem>
  void write_items(char32_t open, char32_t close, size_t n, size_t level, WriteItem write_item) {
    out += open;
    for (size_t i = 0; i < n; ++i) {
      if (i > 0) out += item_separator_;
      new_line(level + 1);
      write_item(i);
    }
    if (n > 0) new_line(level);
    out += close;
  }

  void write_dict(const Dict& dict, size_t level) {
    std::vector<std::pair<Value, Value>> items = dict.items;
    context_.charge(items.size() * 8);
    if (sort_keys_) {
      std::stable_sort(items.begin(), items.end(),
                       [](const auto& a, const auto& b) { return compare(a.first, b.first) < 0; });
    }
    write_items(U'{', U'}', items.size(), level, [&](size_t i) {
      const Value& key = items[i].first;
      write_text(key.text() ? *key.text() : plain(key));
      out += key_separator_;
      write(items[i].second, level + 1);
    });
  }

  void new_line(size_t level) {
    if (!indent_) return;
    context_.charge(1 + level * indent_->size());
    out += U'\n';
    for (size_t i = 0; i < level; ++i) out += *indent_;
  }

  // Every character of an escape keeps the mark of the character it stands for.
  void write_text(TextView text) {
    context_.charge(text.size());
    out += U'"';
    for (char32_t c : text) {
      const char32_t code = code_of(c), mark = c & kForeign;
      const char32_t* const letters = U"\"\\\n\r\t\f\b";
      const size_t special = TextView(letters).find(code);
      if (special != TextView::npos) {
        out += U'\\' | mark;
        out += U"\"\\nrtfb"[special] | mark;
      } else if (code < 0x20 || (ascii_ && code >= 0x7f && code < 0x10000)) {
        write_unit(code, mark);
      } else if (ascii_ && code >= 0x10000) {
        write_unit(0xd800 + ((code - 0x10000) >> 10), mark);
        write_unit(0xdc00 + (code & 0x3ff), mark);
      } else {
        out += c;
      }
    }
    out += U'"';
  }

  void write_unit(char32_t unit, char32_t mark) {
    out += U'\\' | mark;
    out += U'u' | mark;
    for (int shift = 12; shift >= 0; shift -= 4)
      out += static_cast<char32_t>("0123456789abcdef"[unit >> shift & 15]) | mark;
  }

  Context& context_;
  bool ascii_ = false, sort_keys_ = false;
  std::optional<Text> indent_;
  Text item_separator_ = U", ", key_separator_ = U": ";
};

}  // namespace

Value value_of_json(std::string_view json, const std::string& what) {
  Json parsed;
  try {
    parsed = Json::parse(json);
  } catch (const Json::exception& e) {
    throw InvalidArgument(cat(what, ": expected JSON, got ", printable(e.what(), 160)));
  }
  try {
    return value_of(parsed, what, 0);
  } catch (const Fault& fault) { throw InvalidArgument(cat(what, ": ", fault.text)); }
}

Value to_json(Context& context, const Value& value, Args& args) {
  Writer writer(context, args);
  writer.write(value, 0);
  return Value(std::move(writer.out));
}

}  // namespace linnet::formats::jinja
