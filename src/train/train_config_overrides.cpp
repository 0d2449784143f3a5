// --set key.path=value, applied to the JSON of a configuration before it is read.
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/text.h"
#include "formats/json_fields.h"
#include "train/train_config.h"

namespace linnet::train {
namespace {

using nlohmann::ordered_json;

const char* kind_text(const ordered_json& value) {
  return value.is_array() ? "an array" : value.is_string() ? "a string" : value.is_boolean() ? "a boolean" : "a number";
}

// JSON where the text is JSON, else the text itself: lr=1e-3, policy=noise, runs=[...].
ordered_json value_of(std::string_view text) {
  ordered_json value = ordered_json::parse(text, nullptr, false);
  return value.is_discarded() ? ordered_json(text) : value;
}

void apply(ordered_json& document, const std::string& override_text) {
  const size_t equals = override_text.find('=');
  const std::string path = override_text.substr(0, equals);
  if (equals == override_text.npos || path.empty())
    throw InvalidArgument(cat("--set ", printable(override_text, 120), ": expected KEY.PATH=VALUE"));
  ordered_json* at = &document;
  for (size_t begin = 0, end; begin <= path.size(); begin = end + 1) {
    end = std::min(path.find('.', begin), path.size());
    if (end == begin) throw InvalidArgument(cat("--set ", printable(path, 120), ": expected a key between the dots"));
    if (at->is_null()) *at = ordered_json::object();
    if (!at->is_object())
      throw InvalidArgument(cat("--set ", printable(path, 120), ": ", printable(path.substr(0, begin - 1), 120),
                                ": expected an object to set a key of, got ", kind_text(*at)));
    at = &(*at)[path.substr(begin, end - begin)];
  }
  *at = value_of(std::string_view(override_text).substr(equals + 1));
}

}  // namespace

std::string with_overrides(std::string_view json, const std::string& place, std::span<const std::string> overrides) {
  formats::JsonFields::parse(json, place);  // strictly: this parser would let the later of two equal keys win
  ordered_json document = ordered_json::parse(json);
  for (const std::string& text : overrides) apply(document, text);
  try {
    return document.dump(2) + "\n";
  } catch (const ordered_json::exception&) { throw InvalidArgument("--set: expected keys and values in UTF-8"); }
}

}  // namespace linnet::train
