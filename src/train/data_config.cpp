#include "train/data_config.h"

#include <algorithm>
#include <set>

#include "core/errors.h"
#include "core/text.h"
#include "formats/json_fields.h"
#include "train/document_template.h"

namespace linnet::train {
namespace {

using formats::JsonFields;
using formats::JsonKind;

constexpr SourceKind kKinds[] = {SourceKind::text, SourceKind::jsonl, SourceKind::code};
constexpr int64_t kMaxWeight = 1000;

bool good_name(const std::string& name) {
  const auto good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  };
  return !name.empty() && name.size() <= 100 && name[0] != '.' && std::all_of(name.begin(), name.end(), good);
}

std::vector<std::filesystem::path> read_paths(const JsonFields& fields, const char* key) {
  if (fields.kind(key) == JsonKind::string) return {fields.string(key)};
  std::vector<std::filesystem::path> paths;
  for (const std::string& path : fields.strings(key)) paths.emplace_back(path);
  return paths;
}

SourceConfig read_source(const JsonFields& fields) {
  SourceConfig source;
  source.name = fields.string("name");
  int n_kinds = 0;
  for (const SourceKind kind : kKinds) {
    if (!fields.has(name_of(kind))) continue;
    source.kind = kind;
    source.paths = read_paths(fields, name_of(kind));
    ++n_kinds;
  }
  if (n_kinds != 1)
    throw FormatError(cat(fields.place("name"), ": ", printable(source.name, 60),
                          ": expected one of the keys text, jsonl and code, got ", n_kinds));
  if (source.kind == SourceKind::text) source.separator = fields.optional_string("separator").value_or("");
  if (source.kind == SourceKind::jsonl) source.document_template = fields.string("template");
  if (source.kind == SourceKind::code) {
    source.extensions = fields.optional_strings("extensions").value_or(std::vector<std::string>());
    source.max_file_bytes = fields.optional_integer("max_file_bytes", 1, INT64_MAX).value_or(source.max_file_bytes);
  }
  source.weight = fields.optional_integer("weight", 1, kMaxWeight).value_or(1);
  source.licence = fields.optional_string("licence").value_or("");
  return source;
}

}  // namespace

const char* name_of(SourceKind kind) {
  switch (kind) {
    case SourceKind::text: return "text";
    case SourceKind::jsonl: return "jsonl";
    case SourceKind::code: return "code";
  }
  return "?";
}

DataConfig read_data_config(const std::filesystem::path& file) {
  const JsonFields fields = JsonFields::read(file);
  DataConfig config;
  config.held_out = fields.optional_number("held_out", 0, 1).value_or(config.held_out);
  const auto token = [&](const char* key, std::string& name) {
    if (fields.kind(key) == JsonKind::null) name.clear();
    name = fields.optional_string(key).value_or(name);
  };
  token("begin_token", config.begin_token);
  token("end_token", config.end_token);
  for (const JsonFields& source : fields.objects("sources")) config.sources.push_back(read_source(source));
  fields.refuse_unread_keys();
  check_data_config(config, file.string());
  return config;
}

void check_data_config(const DataConfig& config, const std::string& place) {
  if (config.sources.empty()) throw FormatError(cat(place, ": sources: expected at least one, got none"));
  std::set<std::string> names;
  for (size_t i = 0; i < config.sources.size(); ++i) {
    const SourceConfig& source = config.sources[i];
    const auto fail = [&](std::string_view what, const std::string& got) {
      throw FormatError(cat(place, ": sources[", i, "]: expected ", what, ", got \"", printable(got, 60), "\""));
    };
    if (!good_name(source.name))
      fail("a name of letters, digits, '.', '_' and '-' that begins with no '.'", source.name);
    if (!names.insert(source.name).second) fail("another name for each source", source.name);
    if (source.paths.empty()) fail("at least one path", "[]");
    for (const auto& path : source.paths)
      if (path.empty()) fail("a path", "");
    for (const std::string& extension : source.extensions)
      if (extension.size() < 2 || extension[0] != '.') fail("an extension as \".go\"", extension);
    if (source.separator.find_first_of("\r\n") != std::string::npos) fail("a separator of one line", source.separator);
    if (source.kind == SourceKind::jsonl) {
      const std::string defect = DocumentTemplate::defect_of(source.document_template);
      if (!defect.empty()) fail(cat("a template: ", defect), source.document_template);
    }
  }
}

}  // namespace linnet::train
