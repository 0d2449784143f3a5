#include "cli/input.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "cli/output.h"
#include "core/errors.h"
#include "core/text.h"
#include "formats/posix_file.h"

namespace linnet::cli {
namespace {

std::string read_all(int fd, const std::filesystem::path& name) {
  std::string text;
  std::array<char, 1 << 16> buffer;
  for (;;) {
    const ssize_t n = read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) formats::throw_io_error(name, "cannot read", errno);
    if (n == 0) return text;
    text.append(buffer.data(), static_cast<size_t>(n));
  }
}

}  // namespace

std::string read_stdin() { return read_all(STDIN_FILENO, "stdin"); }

std::string read_text(const TextSource& source, const char* what) {
  if (source.text) return *source.text;
  if (!source.file && stdin_is_terminal())
    throw InvalidArgument(cat(what, ": expected text as an option, in a file or on stdin, got none"));
  if (!source.file || *source.file == "-") return read_stdin();
  // Not only regular files: a pipe or <(command) is good, too.
  const formats::FileDescriptor file(open(source.file->c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) formats::throw_io_error(*source.file, "cannot open", errno);
  return read_all(file.get(), *source.file);
}

Line LineReader::next() {
  std::array<char, 1 << 12> buffer;
  for (size_t searched = 0;;) {
    if (const size_t end = held_.find('\n', searched); end != std::string::npos) {
      std::string line = held_.substr(0, end);
      held_.erase(0, end + 1);
      return {.text = std::move(line)};
    }
    searched = held_.size();
    const ssize_t n = ended_ ? 0 : read(STDIN_FILENO, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) {
      held_.clear();
      return {.interrupted = true};
    }
    if (n < 0) formats::throw_io_error("stdin", "cannot read", errno);
    if (n == 0) {
      ended_ = true;
      if (held_.empty()) return {};
      return {.text = std::exchange(held_, {})};
    }
    held_.append(buffer.data(), static_cast<size_t>(n));
  }
}

}  // namespace linnet::cli
