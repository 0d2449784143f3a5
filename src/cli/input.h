// Text that a command works on: from the command line, a file, or stdin.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace linnet::cli {

struct TextSource {
  std::optional<std::string> text;
  std::optional<std::filesystem::path> file;  // "-" is stdin
};

// The bytes as they are. Without text and file: stdin, unless that is a terminal. Throws InvalidArgument, IoError.
std::string read_text(const TextSource& source, const char* what);

std::string read_stdin();  // to its end

// One line of stdin without its line end; none at the end of the input. `interrupted`: a signal came first, and the line begun is lost.
struct Line {
  std::optional<std::string> text;
  bool interrupted = false;
};
class LineReader {
 public:
  Line next();

 private:
  std::string held_;
  bool ended_ = false;
};

}  // namespace linnet::cli
