// What text a command works on: a JSON configuration, or files and folders with a few options.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "train/data_config.h"

namespace linnet::cli {

struct DataInputs {
  std::vector<std::filesystem::path> paths;  // one *.json: the configuration; else *.jsonl, folders of code, text files
  std::string document_template;             // of *.jsonl; \n, \t and \\ as in C
  std::string separator;                     // of text files
  std::vector<std::string> extensions;       // of folders
  std::string licence;
};

// Each path a source, named after the file. Throws InvalidArgument, IoError, FormatError.
train::DataConfig data_config_of(const DataInputs& inputs);

}  // namespace linnet::cli
