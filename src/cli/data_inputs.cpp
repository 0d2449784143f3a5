#include "cli/data_inputs.h"

#include <algorithm>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::cli {
namespace {

using train::SourceKind;

std::string unescaped(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char next = text[i] == '\\' && i + 1 < text.size() ? text[i + 1] : '\0';
    if (next == 'n' || next == 't' || next == '\\') {
      out += next == 'n' ? '\n' : next == 't' ? '\t' : '\\';
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

// The file's name without its extension, with '-' for what a source's name may not hold; a number where the name is taken.
std::string name_for(const std::filesystem::path& path, const std::vector<train::SourceConfig>& sources) {
  std::string name = (path.has_filename() ? path : path.parent_path()).stem().string();
  for (char& c : name)
    if (!isalnum(static_cast<unsigned char>(c)) && c != '_') c = '-';
  if (name.empty()) name = "source";
  const auto taken = [&](const std::string& candidate) {
    return std::any_of(sources.begin(), sources.end(), [&](const auto& source) { return source.name == candidate; });
  };
  std::string free_name = name;
  for (int i = 2; taken(free_name); ++i) free_name = cat(name, "-", i);
  return free_name;
}

}  // namespace

train::DataConfig data_config_of(const DataInputs& inputs) {
  if (inputs.paths.size() == 1 && inputs.paths[0].extension() == ".json") {
    if (!inputs.document_template.empty() || !inputs.separator.empty() || !inputs.extensions.empty() ||
        !inputs.licence.empty())
      throw InvalidArgument(cat(inputs.paths[0].string(),
                                ": a configuration says itself what its sources are: leave out "
                                "--template, --separator, --extensions and --licence"));
    return train::read_data_config(inputs.paths[0]);
  }
  train::DataConfig config;
  for (const std::filesystem::path& path : inputs.paths) {
    std::error_code ignored;
    train::SourceConfig source{.name = name_for(path, config.sources), .paths = {path}, .licence = inputs.licence};
    if (std::filesystem::is_directory(path, ignored)) {
      source.kind = SourceKind::code;
      source.extensions = inputs.extensions;
    } else if (path.extension() == ".jsonl") {
      source.kind = SourceKind::jsonl;
      source.document_template = unescaped(inputs.document_template);
      if (source.document_template.empty())
        throw InvalidArgument(cat(path.string(), ": expected --template, as --template '{title}\\n{text}'"));
    } else if (path.extension() == ".json") {
      throw InvalidArgument(
          cat(path.string(), ": a configuration stands alone; lines of JSON are in files named .jsonl"));
    } else {
      source.separator = inputs.separator;
    }
    config.sources.push_back(std::move(source));
  }
  train::check_data_config(config, "the command line");
  return config;
}

}  // namespace linnet::cli
