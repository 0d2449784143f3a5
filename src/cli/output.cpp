#include "cli/output.h"

#include <unistd.h>

#include <cerrno>
#include <string>

#include "formats/posix_file.h"

namespace linnet::cli {

void print(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(STDOUT_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EPIPE) throw OutputClosed();
    if (n < 0) formats::throw_io_error("stdout", "cannot write", errno);
    text.remove_prefix(static_cast<size_t>(n));
  }
}

void print_error(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(STDERR_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return;  // nowhere left to say so
    text.remove_prefix(static_cast<size_t>(n));
  }
}

void note(std::string_view line) { print_error(std::string(line) + '\n'); }

bool stdin_is_terminal() { return isatty(STDIN_FILENO) == 1; }
bool stdout_is_terminal() { return isatty(STDOUT_FILENO) == 1; }
bool stderr_is_terminal() { return isatty(STDERR_FILENO) == 1; }

}  // namespace linnet::cli
