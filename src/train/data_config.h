// DataConfig: what text there is to train on, and how it becomes documents.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace linnet::train {

enum class SourceKind : uint8_t {
  text,   // files of UTF-8 text: a document each, or one between separator lines
  jsonl,  // files with a JSON object on each line: a document each, made by a template
  code,   // folders with everything in them: a document each file that is text
};
const char* name_of(SourceKind kind);  // "text", "jsonl", "code": the key that names the paths

struct SourceConfig {
  std::string name;  // of the shards: letters, digits, '.', '_', '-'
  SourceKind kind = SourceKind::text;
  std::vector<std::filesystem::path> paths;   // as the user named them: relative to the current folder
  std::string separator;                      // text: a line that ends a document and is no part of it; empty: none
  std::string document_template;              // jsonl: "{title}\n\n{text}"; {{ and }} are braces
  std::vector<std::string> extensions;        // code: ".go", ".rs"; empty: all files
  int64_t max_file_bytes = int64_t{1} << 20;  // code: larger files are skipped
  int64_t weight = 1;                         // times that its text counts when a tokenizer is trained
  std::string licence;                        // as the user says; written into the manifest
};

struct DataConfig {
  std::vector<SourceConfig> sources;
  double held_out = 0.01;           // share of the documents, chosen by the hash of their bytes
  std::string begin_token;          // a special token before each document; empty: none
  std::string end_token = "[EOS]";  // and one after it; empty: none
};

// A JSON file with these names as keys; the paths of a source under the name of its kind, one string or an array. null for a
// token means none. Throws IoError, FormatError (unknown keys too).
DataConfig read_data_config(const std::filesystem::path& file);

// What is wrong with it, as FormatError "PLACE: sources[1]: ..": empty names or paths, a name twice, a bad template.
void check_data_config(const DataConfig& config, const std::string& place);

}  // namespace linnet::train
