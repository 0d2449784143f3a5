// JsonFields: a strict reader of one JSON object from outside. Each getter says what it expects; what was never asked for can be
// listed, so that a caller refuses unknown keys by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/errors.h"
#include "formats/json_check.h"

namespace linnet::formats {

enum class JsonKind { absent, null, boolean, integer, number, string, array, object };

// A value that is not what it should be; `path` is its place in the document: "path.to.key".
struct JsonFieldError : FormatError {
  JsonFieldError(const std::string& text, std::string where) : FormatError(text), path(std::move(where)) {}
  std::string path;
};

// Every failure is a FormatError "FILE: path.to.key: expected integer in [1, 65536], got 1152921504606846976". The required
// form of a getter refuses an absent or null key; the optional form answers nothing for both. 1e3 is an integer, 1.5
// is not; numbers must be finite. A copy, and what object() and objects() return, share the document; not thread safe.
class JsonFields {
 public:
  static constexpr size_t kMaxBytes = size_t{64} << 20;

  // The text must be one JSON object as check_json wants it.
  static JsonFields parse(std::string_view text, std::string place, const JsonLimits& limits = {});
  static JsonFields read(const std::filesystem::path& file, size_t max_bytes = kMaxBytes);

  bool has(std::string_view key) const;       // present and not null; does not count as asking
  JsonKind kind(std::string_view key) const;  // does not count as asking
  std::vector<std::string> keys() const;      // sorted

  int64_t integer(std::string_view key, int64_t low, int64_t high) const;
  double number(std::string_view key, double low, double high) const;
  bool boolean(std::string_view key) const;
  std::string string(std::string_view key) const;
  std::vector<int64_t> integers(std::string_view key, int64_t low, int64_t high) const;
  std::vector<std::string> strings(std::string_view key) const;
  JsonFields object(std::string_view key) const;
  std::vector<JsonFields> objects(std::string_view key) const;

  std::optional<int64_t> optional_integer(std::string_view key, int64_t low, int64_t high) const;
  std::optional<double> optional_number(std::string_view key, double low, double high) const;
  std::optional<bool> optional_boolean(std::string_view key) const;
  std::optional<std::string> optional_string(std::string_view key) const;
  std::optional<std::vector<int64_t>> optional_integers(std::string_view key, int64_t low, int64_t high) const;
  std::optional<std::vector<std::string>> optional_strings(std::string_view key) const;
  std::optional<JsonFields> optional_object(std::string_view key) const;

  // The value as JSON text, whatever it is. The members of its objects count as asked for.
  std::optional<std::string> optional_json(std::string_view key) const;

  // Counts as asked for, whatever it is: for keys that are known to change nothing.
  void ignore(std::string_view key) const;

  // Keys of this object, and of those objects inside that were asked for, that no getter named, as seen from
  // this object: "linear_attn_config.bias".
  std::vector<std::string> unread_keys() const;
  void refuse_unread_keys() const;  // throws "FILE: linear_attn_config.bias: unknown key" for the first of them

  // "FILE: path.to.key", and the error of a caller that expects something of the key that no getter can say:
  // throw f.error("hidden_act", "\"silu\"").
  std::string place(std::string_view key) const;
  JsonFieldError error(std::string_view key, std::string_view expected) const;

 private:
  struct Object;
  explicit JsonFields(std::shared_ptr<const Object> object) : object_(std::move(object)) {}

  std::shared_ptr<const Object> object_;
};

}  // namespace linnet::formats
