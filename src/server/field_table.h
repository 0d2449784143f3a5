// Every field of a completion request that the server knows: what it does with it. docs/serving.md has the same table in words.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "formats/json_fields.h"

namespace linnet::server {

enum class Endpoint : uint8_t { chat = 1, completions = 2, both = 3 };

//   read      has an effect
//   ignored   changes no answer here: taken silently
//   refused   would change the answer, and cannot: 400, unless it has its neutral value
enum class FieldUse : uint8_t { read, ignored, refused };

struct Field {
  const char* name;
  Endpoint where;
  FieldUse use;
  const char* neutral = nullptr;  // refused: JSON of the value that asks for nothing (null always does)
  const char* why = nullptr;      // refused: what to say
};

std::span<const Field> field_table();

// Throws ApiError for the first refused field that asks for something.
void refuse_fields(const formats::JsonFields& body, Endpoint endpoint);

// Top-level fields that are in no row for the endpoint: they are ignored, and the client can be told.
std::vector<std::string> unknown_fields(const formats::JsonFields& body, Endpoint endpoint);

}  // namespace linnet::server
