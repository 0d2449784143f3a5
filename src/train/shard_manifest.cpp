#include "train/shard_manifest.h"

#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "core/errors.h"
#include "core/text.h"
#include "formats/json_fields.h"
#include "formats/mapped_file.h"

namespace linnet::train {
namespace {

using formats::JsonFields;
using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "linnet token shards";
constexpr int64_t kVersion = 1;
constexpr Split kBoth[kSplits] = {Split::train, Split::held_out};

std::string hex(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

uint64_t read_hex(const JsonFields& fields, const char* key) {
  const std::string text = fields.string(key);
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (text.size() != 16 || error != std::errc() || end != text.data() + text.size())
    throw fields.error(key, "16 hexadecimal digits");
  return value;
}

Json token_json(const std::string& name) { return name.empty() ? Json() : Json(name); }

Json source_json(const ManifestSource& source) {
  const SourceConfig& config = source.config;
  Json paths = Json::array();
  for (const auto& path : config.paths) paths.push_back(path.string());
  Json json = {{"name", config.name}, {name_of(config.kind), paths}};
  if (config.kind == SourceKind::jsonl) json["template"] = config.document_template;
  if (!config.separator.empty()) json["separator"] = config.separator;
  if (config.kind == SourceKind::code) {
    json["extensions"] = config.extensions;
    json["max_file_bytes"] = config.max_file_bytes;
  }
  json["licence"] = config.licence;
  json["hash"] = hex(source.hash);
  const DocumentCounts& c = source.counts;
  json["files"] = c.files;
  json["documents"] = c.documents;
  json["bytes"] = c.bytes;
  json["tokens"] = source.splits[0].tokens + source.splits[1].tokens;
  json["skipped"] = {{"empty", c.empty}, {"binary", c.binary_files}, {"too_large", c.large_files}};
  for (const Split split : kBoth) {
    const ManifestSplit& s = source.splits[static_cast<size_t>(split)];
    Json shards = Json::array();
    for (const ManifestShard& shard : s.shards)
      shards.push_back({{"file", shard.file}, {"checksum", hex(shard.checksum)}});
    json[name_of(split)] = {{"documents", s.documents}, {"tokens", s.tokens}, {"bytes", s.bytes}, {"shards", shards}};
  }
  return json;
}

ManifestSplit read_split(const JsonFields& fields, std::set<std::string>& files) {
  ManifestSplit split{.documents = fields.integer("documents", 0, INT64_MAX),
                      .tokens = fields.integer("tokens", 0, INT64_MAX),
                      .bytes = fields.integer("bytes", 0, INT64_MAX)};
  for (const JsonFields& shard : fields.objects("shards")) {
    ManifestShard read{shard.string("file"), read_hex(shard, "checksum")};
    const bool plain = !read.file.empty() && read.file[0] != '.' && read.file.find('/') == std::string::npos &&
                       read.file.find('\0') == std::string::npos;
    if (!plain) throw shard.error("file", "a file's name without a folder");
    if (!files.insert(read.file).second) throw shard.error("file", "another name for each shard");
    split.shards.push_back(std::move(read));
  }
  return split;
}

ManifestSource read_source(const JsonFields& fields, std::set<std::string>& files) {
  ManifestSource source;
  source.config.name = fields.string("name");
  source.config.licence = fields.string("licence");
  for (const Split split : kBoth)
    source.splits[static_cast<size_t>(split)] = read_split(fields.object(name_of(split)), files);
  return source;
}

}  // namespace

std::string manifest_json(const ShardManifest& manifest) {
  Json sources = Json::array();
  for (const ManifestSource& source : manifest.sources) sources.push_back(source_json(source));
  const Json json = {{"format", kFormat},
                     {"version", kVersion},
                     {"vocab_size", manifest.ids.vocab_size},
                     {"tokenizer_hash", hex(manifest.ids.tokenizer_hash)},
                     {"held_out", manifest.held_out},
                     {"begin_token", token_json(manifest.begin_token)},
                     {"end_token", token_json(manifest.end_token)},
                     {"sources", sources}};
  try {
    return json.dump(1) + "\n";
  } catch (const nlohmann::json::exception&) {
    throw InvalidArgument("manifest: expected paths, separators and licences in UTF-8");
  }
}

ShardManifest parse_manifest(std::string_view text, const std::string& place) {
  const JsonFields fields = JsonFields::parse(text, place);
  if (fields.string("format") != kFormat) throw fields.error("format", cat('"', kFormat, '"'));
  fields.integer("version", kVersion, kVersion);
  ShardManifest manifest;
  manifest.ids.vocab_size = static_cast<int32_t>(fields.integer("vocab_size", 1, 1 << 24));
  manifest.ids.tokenizer_hash = read_hex(fields, "tokenizer_hash");
  manifest.held_out = fields.number("held_out", 0, 1);
  manifest.begin_token = fields.optional_string("begin_token").value_or("");
  manifest.end_token = fields.optional_string("end_token").value_or("");
  std::set<std::string> files;
  for (const JsonFields& source : fields.objects("sources")) manifest.sources.push_back(read_source(source, files));
  return manifest;
}

ShardManifest read_manifest(const std::filesystem::path& file) {
  return parse_manifest(formats::read_text_file(file, JsonFields::kMaxBytes), file.string());
}

}  // namespace linnet::train
