// The command line: every command and option, declared once. The only header that knows CLI11, beside main.cpp.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace linnet::cli {

// What the parsed command line asks for; empty until a command was found.
using Action = std::function<int()>;

void declare_commands(CLI::App& app, Action& action);

}  // namespace linnet::cli
