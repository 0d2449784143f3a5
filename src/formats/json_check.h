// JSON from outside is checked before it is read: what a parser would take silently, and what costs its reader more time or memory than
// its length. Time and memory here are proportional to the length of the text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "core/errors.h"

namespace linnet::formats {

struct JsonLimits {
  int levels = 64;            // of nesting
  size_t members = SIZE_MAX;  // of one object: readers that keep their order look for a key among those before it
  size_t parts = SIZE_MAX;    // strings, keys, arrays and objects, each with memory of its own
  size_t values = SIZE_MAX;   // of any kind
};

// A text within the grammar of JSON and beyond a limit.
struct JsonLimitError : FormatError {
  using FormatError::FormatError;
};

// The text must be one JSON value: RFC 8259, valid UTF-8, no key twice in an object, no number beyond double. Throws FormatError
// "PLACE: byte 9: expected JSON, got ...".
void check_json(std::string_view text, const std::string& place, const JsonLimits& limits = {});

// The text of a value in a text that has been checked: the member of the member ... of an object. Empty where there is none.
std::string_view json_member(std::string_view text, std::initializer_list<std::string_view> path);

}  // namespace linnet::formats
