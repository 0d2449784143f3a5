// What commands say: results on stdout, everything else on stderr.
#pragma once

#include <string_view>

namespace linnet::cli {

// Thrown when the reader of stdout has gone: not an error, the program ends quietly with status 141 (128 + SIGPIPE).
struct OutputClosed {};
constexpr int kOutputClosedStatus = 141;

// Writes all of the text to stdout at once, unbuffered. Throws OutputClosed, or IoError with the system's reason.
void print(std::string_view text);

void print_error(std::string_view text);  // to stderr, as far as it goes
void note(std::string_view line);         // a line on stderr

bool stdin_is_terminal();
bool stdout_is_terminal();
bool stderr_is_terminal();

}  // namespace linnet::cli
