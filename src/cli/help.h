// The look of --help: CLI11's, with long texts wrapped to the width of a page.
#pragma once

#include <CLI/CLI.hpp>

namespace linnet::cli {

class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter();
  std::string make_option_opts(const CLI::Option* option) const override;
  std::string make_option_desc(const CLI::Option* option) const override;
  std::string make_footer(const CLI::App* app) const override;
};

}  // namespace linnet::cli
