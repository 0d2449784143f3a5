// The names that a published checkpoint's files have, for the reader and the writer.
#pragma once

namespace linnet::formats {

constexpr const char* kSingleName = "model.safetensors";
constexpr const char* kIndexName = "model.safetensors.index.json";

}  // namespace linnet::formats
