#include "cli/help.h"

#include <sstream>

#include "core/text.h"

namespace linnet::cli {
namespace {

constexpr size_t kPage = 110, kNames = 32;  // columns: of a line, and of the names before a description

std::string wrapped(const std::string& text, size_t width) {
  std::istringstream words(text);
  std::string out, line;
  for (std::string word; words >> word;) {
    if (!line.empty() && line.size() + 1 + word.size() > width) out += line + "\n", line.clear();
    line += (line.empty() ? "" : " ") + word;
  }
  return out + line;
}

}  // namespace

HelpFormatter::HelpFormatter() {
  column_width(kNames);
  label("SUBCOMMAND", "COMMAND");
  label("Subcommands", "Commands");
}

std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
  const bool takes_value = option->get_type_size() != 0 && !option->get_type_name().empty();
  return cat(takes_value ? " " + option->get_type_name() : "", option->get_required() ? " (required)" : "");
}

std::string HelpFormatter::make_option_desc(const CLI::Option* option) const {
  return wrapped(option->get_description(), kPage - kNames);
}

std::string HelpFormatter::make_footer(const CLI::App* app) const {
  return app->get_footer().empty() ? "" : wrapped(app->get_footer(), kPage) + "\n";
}

}  // namespace linnet::cli
