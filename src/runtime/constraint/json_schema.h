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

// The rules of the same two inside another grammar, which is still to be finished: where they begin.
Grammar::Node add_json_object(Grammar& grammar);
Grammar::Node add_json_schema(Grammar& grammar, std::string_view schema, const std::string& place);

// Throws FormatError for what is no schema or allows nothing, Unsupported for what cannot be guaranteed or is too large. Messages
// begin "PLACE: #/properties/name/pattern: ".
Grammar json_schema_grammar(std::string_view schema, const std::string& place);

}  // namespace linnet::runtime
