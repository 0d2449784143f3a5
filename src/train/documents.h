// Documents of a source: files and folders as a sequence of texts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "core/function_ref.h"
#include "train/data_config.h"

namespace linnet::train {

// The files of a source: what it names, and of folders of code what is in them, in byte order of their paths; symbolic links inside
// folders are not followed.
struct SourceFiles {
  std::vector<std::filesystem::path> paths;
  int64_t bytes = 0;  // of all files
};
SourceFiles files_of(const SourceConfig& source);  // throws IoError, FormatError for a folder without such files

struct DocumentCounts {
  int64_t files = 0;         // that were read
  int64_t documents = 0;     // that were visited
  int64_t bytes = 0;         // of these
  int64_t empty = 0;         // documents, or files of code, with nothing but white space: skipped
  int64_t binary_files = 0;  // code that holds a zero byte or is not UTF-8: skipped
  int64_t large_files = 0;   // code over the limit: skipped
};

// Visits every document in order; the text is good until visit() returns. read(bytes) tells how far the files have been read.
// Throws IoError, and FormatError naming the place in a text or JSONL file: not UTF-8, a zero byte, a line that is no JSON object
// or lacks a field; and when the source holds no document at all.
DocumentCounts for_each_document(const SourceConfig& source, const SourceFiles& files,
                                 FunctionRef<void(std::string_view)> visit, FunctionRef<void(int64_t)> read);

}  // namespace linnet::train
