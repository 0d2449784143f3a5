// JSON schema to grammar. What a schema says is guaranteed by every text of the grammar, or the schema is refused naming the
// keyword; the grammar may be narrower than the schema (docs/constrained-output.md has the list).
#pragma once

#include <string>
#include <string_view>

#include "runtime/constraint/grammar.h"

namespace linnet::runtime {

constexpr size_t kMaxSchemaBytes = 256 << 10;
constexpr int kMaxSchemaDepth = 64;
constexpr size_t kMaxSchemaKeys = 512;  // of one object

// Any JSON object.
Grammar json_object_grammar();

// Throws FormatError for what is no schema or allows nothing, Unsupported for what cannot be guaranteed or is too large. Messages
// begin "PLACE: #/properties/name/pattern: ".
Grammar json_schema_grammar(std::string_view schema, const std::string& place);

}  // namespace linnet::runtime
