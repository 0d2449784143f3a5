#include "train/documents.h"

#include <algorithm>

#include "core/errors.h"
#include "core/text.h"
#include "formats/json_fields.h"
#include "formats/mapped_file.h"
#include "formats/utf8.h"
#include "train/document_template.h"

namespace linnet::train {
namespace {

namespace fs = std::filesystem;

std::string_view text_of(const formats::MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

bool blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\v\f") == text.npos; }

// Byte of the first thing that is no text; npos when there is none.
size_t first_not_text(std::string_view text) {
  const size_t n = formats::utf8_valid_prefix(text), zero = text.find('\0');
  return n == text.size() ? zero : std::min(n, zero);
}

void require_text(std::string_view text, const fs::path& path, size_t offset) {
  const size_t at = first_not_text(text);
  if (at == text.npos) return;
  throw FormatError(
      cat(path.string(), ": byte ", offset + at, ": expected text in UTF-8, got ",
          text[at] == '\0' ? std::string("a zero byte") : cat('"', printable(text.substr(at, 8), 40), '"')));
}

class Reader {
 public:
  Reader(const SourceConfig& source, FunctionRef<void(std::string_view)> visit, FunctionRef<void(int64_t)> read)
      : source_(source), visit_(visit), read_(read) {}

  void read_file(const fs::path& path) {
    const formats::MappedFile file(path);
    ++counts_.files;
    if (source_.kind == SourceKind::code) read_code(text_of(file));
    else if (source_.kind == SourceKind::jsonl) read_jsonl(file);
    else read_text(file);
    done_ += std::ssize(file.bytes());
    read_(done_);
  }

  const DocumentCounts& counts() const { return counts_; }

 private:
  static constexpr size_t kReleaseBytes = size_t{64} << 20;  // the file's pages are given back in such steps

  void document(std::string_view text) {
    if (blank(text)) {
      ++counts_.empty;
      return;
    }
    ++counts_.documents;
    counts_.bytes += std::ssize(text);
    visit_(text);
  }

  void read_code(std::string_view text) {
    if (std::ssize(text) > source_.max_file_bytes) ++counts_.large_files;
    else if (first_not_text(text) != text.npos) ++counts_.binary_files;
    else document(text);
  }

  // Calls line(text, offset) for each line with its line end.
  void for_each_line(const formats::MappedFile& file, FunctionRef<void(std::string_view, size_t)> line) {
    const std::string_view text = text_of(file);
    size_t released = 0;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
      line(text.substr(at, end - at), at);
      at = end;
      read_(done_ + static_cast<int64_t>(at));
      if (at - released < kReleaseBytes) continue;
      file.release(file.bytes().subspan(released, at - released));
      released = at;
    }
  }

  void read_text(const formats::MappedFile& file) {
    const std::string_view text = text_of(file);
    if (source_.separator.empty()) {
      require_text(text, file.path(), 0);
      return document(text);
    }
    size_t begin = 0;
    const auto end_document = [&](size_t end) {
      require_text(text.substr(begin, end - begin), file.path(), begin);
      document(text.substr(begin, end - begin));
    };
    for_each_line(file, [&](std::string_view line, size_t at) {
      while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.remove_suffix(1);
      if (line != source_.separator) return;
      end_document(at);
      begin = std::min(text.find('\n', at), text.size() - 1) + 1;
    });
    // What follows the last separator is a document only if there is something.
    if (!blank(text.substr(begin))) end_document(text.size());
  }

  void read_jsonl(const formats::MappedFile& file) {
    const DocumentTemplate document_template(source_.document_template);
    int64_t number = 0;
    for_each_line(file, [&](std::string_view line, size_t) {
      ++number;
      if (blank(line)) return;
      document(document_template.apply(formats::JsonFields::parse(line, cat(file.path().string(), ": line ", number))));
    });
  }

  const SourceConfig& source_;
  FunctionRef<void(std::string_view)> visit_;
  FunctionRef<void(int64_t)> read_;
  DocumentCounts counts_;
  int64_t done_ = 0;  // bytes of files
};

bool wanted(const SourceConfig& source, const fs::path& path) {
  const std::string name = path.filename().string();
  return source.extensions.empty() ||
         std::any_of(source.extensions.begin(), source.extensions.end(), [&](const std::string& extension) {
           return name.size() > extension.size() && name.ends_with(extension);
         });
}

std::vector<fs::path> files_in(const fs::path& folder, const SourceConfig& source) {
  std::vector<fs::path> files;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error))
    if (it->symlink_status().type() == fs::file_type::regular && wanted(source, it->path()))
      files.push_back(it->path());
  if (error) throw IoError(cat(folder.string(), ": cannot list: ", error.message()));
  std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
  return files;
}

}  // namespace

SourceFiles files_of(const SourceConfig& source) {
  SourceFiles files;
  for (const fs::path& path : source.paths) {
    std::error_code ignored;
    const bool is_folder = fs::is_directory(path, ignored);
    if (is_folder && source.kind != SourceKind::code)
      throw FormatError(cat(path.string(), ": expected a file, got a folder"));
    const std::vector<fs::path> found = is_folder ? files_in(path, source) : std::vector{path};
    if (found.empty())
      throw FormatError(cat(path.string(), ": expected files of the source \"", source.name, "\", got none"));
    files.paths.insert(files.paths.end(), found.begin(), found.end());
  }
  for (const fs::path& path : files.paths) {
    std::error_code error;
    const auto bytes = fs::file_size(path, error);
    if (error) throw IoError(cat(path.string(), ": ", error.message()));
    files.bytes += static_cast<int64_t>(bytes);
  }
  return files;
}

DocumentCounts for_each_document(const SourceConfig& source, const SourceFiles& files,
                                 FunctionRef<void(std::string_view)> visit, FunctionRef<void(int64_t)> read) {
  Reader reader(source, visit, read);
  for (const fs::path& path : files.paths) reader.read_file(path);
  const DocumentCounts& c = reader.counts();
  if (c.documents == 0)
    throw FormatError(cat(source.paths[0].string(), ": expected at least one document, got none: ", c.files, " files, ",
                          c.empty, " empty, ", c.binary_files, " binary, ", c.large_files, " too large"));
  return c;
}

}  // namespace linnet::train
