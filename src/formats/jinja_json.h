// JSON in and out of templates.
#pragma once

#include <string>
#include <string_view>

#include "formats/jinja_value.h"

namespace linnet::formats::jinja {

// The value of a JSON text from outside; its strings and keys are foreign, keys keep their order. Throws InvalidArgument
// "WHAT: expected JSON .." when it is none, is nested deeper than 64 levels, or holds an integer beyond 64 bits.
Value value_of_json(std::string_view json, const std::string& what);

}  // namespace linnet::formats::jinja
