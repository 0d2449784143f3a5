#include "formats/safetensors_header.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::formats {
namespace {

using nlohmann::json;
using Entry = SafetensorsHeader::Entry;

std::string shown(std::string_view name) { return printable(name, 120); }

// Reads the JSON event by event: a DOM of twenty thousand tensors costs more than the rest of opening a checkpoint. Levels: 1 the
// header object, 2 one tensor or __metadata__, 3 an array of integers. Offsets are relative to the data here.
class HeaderReader : public json::json_sax_t {
 public:
  HeaderReader(SafetensorsHeader& header, std::string_view place) : header_(header), place_(place) {}

  bool start_object(size_t) override {
    if (level_ > 1) fail("an object");
    ++level_;
    return true;
  }

  bool key(std::string& name) override {
    if (level_ == 1) {
      start_tensor(name);
    } else if (in_metadata_) {
      metadata_key_ = name;
    } else {
      start_field(name);
    }
    return true;
  }

  bool string(std::string& text) override {
    if (level_ == 2 && in_metadata_) {
      if (!header_.metadata.emplace(metadata_key_, text).second)
        refuse(cat("expected one key \"", shown(metadata_key_), "\", got two"));
    } else if (level_ == 2 && field_ == kDType) {
      const std::optional<DType> dtype = dtype_of_file_name(text);
      if (!dtype) refuse(cat("dtype: expected F32, BF16, F16, I32, I64 or U8, got \"", shown(text), '"'));
      entry_.spec.dtype = *dtype;
    } else {
      fail(cat('"', shown(text), '"'));
    }
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (level_ != 3) fail(std::to_string(value));
    if (field_ == kShape) {
      if (value > static_cast<uint64_t>(INT64_MAX)) fail(std::to_string(value));
      entry_.spec.shape.push_back(static_cast<int64_t>(value));
      if (entry_.spec.shape.size() > static_cast<size_t>(kMaxRank))
        refuse(cat("shape: expected at most ", kMaxRank, " extents, got more"));
    } else {
      if (n_offsets_ == 2) refuse("data_offsets: expected [begin, end], got more numbers");
      (n_offsets_++ == 0 ? entry_.begin : entry_.end) = value;
    }
    return true;
  }

  bool start_array(size_t) override {
    if (level_ != 2 || in_metadata_ || field_ == kDType) fail("an array");
    ++level_;
    return true;
  }

  bool end_array() override {
    if (field_ == kOffsets && n_offsets_ != 2)
      refuse(cat("data_offsets: expected [begin, end], got ", n_offsets_, " numbers"));
    --level_;
    return true;
  }

  bool end_object() override {
    if (--level_ != 1) return true;
    if (std::exchange(in_metadata_, false)) return true;
    for (const Field field : {kDType, kShape, kOffsets})
      if (!(seen_ & field)) refuse(cat("expected dtype, shape and data_offsets, got no ", name_of(field)));
    header_.tensors.push_back(std::move(entry_));
    return true;
  }

  bool number_integer(int64_t value) override { fail(std::to_string(value)); }
  bool number_float(double, const std::string& text) override { fail(shown(text)); }
  bool null() override { fail("null"); }
  bool boolean(bool value) override { fail(value ? "true" : "false"); }
  bool binary(json::binary_t&) override { fail("binary"); }

  bool parse_error(size_t position, const std::string&, const json::exception& e) override {
    std::string_view what = e.what();
    if (const size_t at = what.rfind(": syntax error"); at != what.npos) what.remove_prefix(at + 2);
    throw FormatError(cat(place_, ": header: byte ", 8 + (position == 0 ? 0 : position - 1), ": expected JSON, got ",
                          printable(what, 160)));
  }

 private:
  enum Field : unsigned { kNone = 0, kDType = 1, kShape = 2, kOffsets = 4 };
  static constexpr const char* name_of(Field field) {
    return field == kDType ? "dtype" : field == kShape ? "shape" : field == kOffsets ? "data_offsets" : "tensor";
  }

  void start_tensor(const std::string& name) {
    in_metadata_ = name == "__metadata__";
    entry_ = Entry();
    entry_.spec.name = name;
    field_ = kNone, seen_ = 0, n_offsets_ = 0;
    if (in_metadata_ && std::exchange(seen_metadata_, true)) refuse("expected one such key, got two");
    if (name.empty()) refuse("expected a tensor's name, got \"\"");
  }

  void start_field(std::string_view name) {
    field_ = kNone;
    for (const Field field : {kDType, kShape, kOffsets})
      if (name == name_of(field)) field_ = field;
    if (field_ == kNone) refuse(cat("expected dtype, shape and data_offsets, got \"", shown(name), '"'));
    if (seen_ & field_) refuse(cat("expected one ", name, ", got two"));
    seen_ |= field_;
  }

  // A value of a kind that cannot stand where it stands.
  [[noreturn]] void fail(std::string_view got) const {
    if (level_ == 0) throw FormatError(cat(place_, ": header: expected a JSON object, got ", got));
    if (level_ == 1) refuse(cat("expected an object, got ", got));
    if (in_metadata_) refuse(cat(shown(metadata_key_), ": expected a string, got ", got));
    if (level_ == 2)
      refuse(cat(name_of(field_), ": expected ", field_ == kDType ? "a string" : "an array", ", got ", got));
    refuse(cat(name_of(field_), ": expected integers in [0, ", INT64_MAX, "], got ", got));
  }
  [[noreturn]] void refuse(std::string_view what) const {
    throw FormatError(cat(place_, ": ", shown(in_metadata_ ? "__metadata__" : entry_.spec.name), ": ", what));
  }

  SafetensorsHeader& header_;
  std::string_view place_;
  int level_ = 0;
  bool in_metadata_ = false, seen_metadata_ = false;
  std::string metadata_key_;
  Entry entry_;
  Field field_ = kNone;
  unsigned seen_ = 0;
  int n_offsets_ = 0;
};

// The length in front, checked against the file.
uint64_t header_bytes(std::span<const std::byte> file, std::string_view place) {
  uint64_t bytes = 0;
  if (file.size() < sizeof bytes)
    throw FormatError(
        cat(place, ": byte 0: expected a header length of 8 bytes, got a file of ", file.size(), " bytes"));
  std::memcpy(&bytes, file.data(), sizeof bytes);
  if (bytes > kMaxSafetensorsHeaderBytes)
    throw FormatError(
        cat(place, ": byte 0: expected a header of at most ", kMaxSafetensorsHeaderBytes, " bytes, got ", bytes));
  if (bytes > file.size() - sizeof bytes)
    throw FormatError(cat(place, ": byte 0: expected a header of at most ", file.size() - sizeof bytes,
                          " bytes, which the file has left, got ", bytes));
  return bytes;
}

void check_extent(const Entry& entry, uint64_t data_bytes, std::string_view place) {
  const auto refuse = [&](auto... what) { throw FormatError(cat(place, ": ", shown(entry.spec.name), ": ", what...)); };
  const std::optional<int64_t> bytes = bytes_of(entry.spec.dtype, entry.spec.shape);
  if (!bytes) refuse("shape: expected a product that fits in 63 bits of bytes, got ", shape_text(entry.spec.shape));
  if (entry.begin > entry.end || entry.end > data_bytes)
    refuse("data_offsets: expected a range inside [0, ", data_bytes, "], got [", entry.begin, ", ", entry.end, "]");
  if (entry.end - entry.begin != static_cast<uint64_t>(*bytes))
    refuse("data_offsets: expected ", *bytes, " bytes for ", shape_text(entry.spec.shape), ' ',
           name_of(entry.spec.dtype), ", got ", entry.end - entry.begin);
}

// In the order of their data, each tensor begins where the one before ends, and the last ends with the file.
void check_cover(const std::vector<Entry>& tensors, uint64_t data_bytes, std::string_view place) {
  std::vector<const Entry*> by_data;
  by_data.reserve(tensors.size());
  for (const Entry& entry : tensors) by_data.push_back(&entry);
  std::sort(by_data.begin(), by_data.end(),
            [](const Entry* a, const Entry* b) { return std::pair(a->begin, a->end) < std::pair(b->begin, b->end); });
  uint64_t at = 0;
  for (const Entry* entry : by_data) {
    if (entry->begin != at)
      throw FormatError(cat(place, ": ", shown(entry->spec.name), ": data_offsets: expected begin ", at, ", got ",
                            entry->begin,
                            entry->begin < at ? ", which overlaps the tensor before" : ", which leaves a gap"));
    at = entry->end;
  }
  if (at != data_bytes)
    throw FormatError(cat(place, ": expected ", at, " bytes of data as the header says, got ", data_bytes));
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, std::string_view place) {
  const uint64_t n_bytes = header_bytes(file, place);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, n_bytes);
  if (!text.starts_with('{'))
    throw FormatError(cat(place, ": byte 8: expected '{', got \"", printable(text.substr(0, 1), 1), '"'));
  if (const size_t at = text.find('\0'); at != text.npos)  // nlohmann's lexer takes it for the end
    throw FormatError(cat(place, ": header: byte ", 8 + at, ": expected JSON, got a NUL byte"));

  SafetensorsHeader header;
  HeaderReader reader(header, place);
  json::sax_parse(text.begin(), text.end(), &reader);

  std::vector<Entry>& tensors = header.tensors;
  std::sort(tensors.begin(), tensors.end(), [](const Entry& a, const Entry& b) { return a.spec.name < b.spec.name; });
  for (size_t i = 1; i < tensors.size(); ++i)
    if (tensors[i].spec.name == tensors[i - 1].spec.name)
      throw FormatError(cat(place, ": ", shown(tensors[i].spec.name), ": expected one such tensor, got two"));
  const uint64_t data_begin = 8 + n_bytes, data_bytes = file.size() - data_begin;
  for (const Entry& entry : tensors) check_extent(entry, data_bytes, place);
  check_cover(tensors, data_bytes, place);
  for (Entry& entry : tensors) entry.begin += data_begin, entry.end += data_begin;
  return header;
}

}  // namespace linnet::formats
