// The program: parses the command line, runs one command, and says what went wrong in one line.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <numeric>

#include "cli/help.h"
#include "cli/options.h"
#include "cli/output.h"
#include "core/errors.h"
#include "core/text.h"

namespace linnet::cli {
namespace {

// Levenshtein's distance.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j)
      diagonal = std::exchange(row[j + 1], std::min({row[j + 1] + 1, row[j] + 1, diagonal + (a[i] != b[j])}));
  }
  return row.back();
}

// CLI11 would only say that an argument was not expected.
void refuse_unknown_command(const CLI::App& app, std::string_view name) {
  if (name.starts_with('-')) return;
  std::string near, all;
  size_t best = 3;  // more edits than that are another word
  for (const CLI::App* command : app.get_subcommands({})) {
    const std::string& known = command->get_name();
    if (known == name) return;
    all += cat(all.empty() ? "" : ", ", known);
    const size_t d = known.starts_with(name) ? 0 : distance(name, known);
    if (d > best) continue;
    near = d < best ? known : cat(near.empty() ? "" : near + " or ", known);
    best = d;
  }
  throw InvalidArgument(cat("unknown command \"", printable(name, 60), "\"; ",
                            near.empty() ? cat("expected one of ", all) : cat("did you mean ", near, "?")));
}

int run(int argc, char** argv) {
  CLI::App app("Runs Kimi Linear models.", "linnet");
  app.set_version_flag("--version", "linnet " LINNET_VERSION, "print the version and exit");
  app.set_help_flag("-h,--help", "print this help and exit");
  app.formatter(std::make_shared<HelpFormatter>());
  app.option_defaults()->take_last();  // an option given twice: the last one counts
  Action action;
  declare_commands(app, action);
  app.footer("linnet COMMAND --help shows the options of a command.");  // after them: they would inherit it
  if (argc == 1) {
    print_error(app.help());
    return 2;
  }
  refuse_unknown_command(app, argv[1]);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& done) { return app.exit(done); } catch (const CLI::ParseError& e) {
    throw InvalidArgument(e.what());
  }
  if (!action) throw InvalidArgument("expected a command; linnet --help lists them");
  return action();
}

// One line, whatever the message holds.
void complain(std::string message) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  note("linnet: " + message);
}

}  // namespace
}  // namespace linnet::cli

int main(int argc, char** argv) {
  using namespace linnet;
  signal(SIGPIPE, SIG_IGN);  // a write to a closed pipe then fails, and cli::print says so
  try {
    return cli::run(argc, argv);
  } catch (const cli::OutputClosed&) { return cli::kOutputClosedStatus; } catch (const std::bad_alloc&) {
    cli::complain("memory: the system refused an allocation");
    return exit_status(std::bad_alloc());
  } catch (const std::exception& e) {
    cli::complain(e.what());
    return exit_status(e);
  } catch (...) {
    cli::complain("an unknown error");
    return 70;
  }
}
