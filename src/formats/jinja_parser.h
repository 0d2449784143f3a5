// Template source to statements.
#pragma once

#include <string>
#include <string_view>

#include "formats/jinja_nodes.h"

namespace linnet::formats::jinja {

// Throws FormatError "NAME:LINE:COLUMN: expected .., got ..", which names what is not supported.
Block parse_template(const std::string& name, std::string_view source);

}  // namespace linnet::formats::jinja
