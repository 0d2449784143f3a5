// Running the built program as its users do: a process with arguments, input, output and a status.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <csignal>
#include <functional>
#include <string>
#include <vector>

#include "formats/file_test_support.h"

namespace linnet::cli {

struct Outcome {
  int status = -1;  // exit status, or 128 + signal
  std::string out, err;
};

struct RunOptions {
  std::string input;
  bool close_input = true;                                       // false: stdin stays open until the program ends
  int64_t file_limit = -1;                                       // RLIMIT_FSIZE, bytes
  size_t close_output_after = SIZE_MAX;                          // stdout is closed once it has brought so many bytes
  std::string output_to;                                         // a file for stdout
  std::string environment;                                       // "NAME=value", added
  std::function<void(pid_t, const std::string& out)> on_output;  // after each piece of stdout
};

// Runs the program and collects what it writes. A child that hangs is killed after a minute, and the test fails.
inline Outcome linnet(std::vector<std::string> args, const RunOptions& options = {}) {
  int in[2], out[2], err[2];
  if (pipe(in) != 0 || pipe(out) != 0 || pipe(err) != 0) throw std::runtime_error("no pipe");
  const pid_t child = fork();
  if (child == 0) {
    dup2(in[0], STDIN_FILENO), dup2(out[1], STDOUT_FILENO), dup2(err[1], STDERR_FILENO);
    for (int fd : {in[0], in[1], out[0], out[1], err[0], err[1]}) close(fd);
    if (!options.output_to.empty()) dup2(open(options.output_to.c_str(), O_WRONLY), STDOUT_FILENO);
    if (!options.environment.empty()) putenv(const_cast<char*>(options.environment.c_str()));
    if (options.file_limit >= 0) {
      const rlimit limit{static_cast<rlim_t>(options.file_limit), static_cast<rlim_t>(options.file_limit)};
      setrlimit(RLIMIT_FSIZE, &limit);
      signal(SIGXFSZ, SIG_IGN);  // the write fails instead, as on a full disk
    }
    signal(SIGPIPE, SIG_DFL);
    std::vector<char*> argv;
    std::string program = LINNET_PROGRAM;
    argv.push_back(program.data());
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    execv(LINNET_PROGRAM, argv.data());
    _exit(127);
  }
  for (int fd : {in[0], out[1], err[1]}) close(fd);
  signal(SIGPIPE, SIG_IGN);
  std::string_view left = options.input;
  const auto close_in = [&] {
    if (in[1] >= 0) close(in[1]), in[1] = -1;
  };
  fcntl(in[1], F_SETFL, O_NONBLOCK);

  Outcome outcome;
  bool out_open = true, err_open = true;
  while (out_open || err_open) {
    if (left.empty() && options.close_input) close_in();
    pollfd fds[] = {{out_open ? out[0] : -1, POLLIN, 0},
                    {err_open ? err[0] : -1, POLLIN, 0},
                    {left.empty() ? -1 : in[1], POLLOUT, 0}};
    if (poll(fds, 3, 60'000) == 0) {
      ADD_FAILURE() << "the program hangs";
      kill(child, SIGKILL);
      break;
    }
    char buffer[4096];
    const auto read_from = [&](int fd, bool& open, std::string& to) {
      const ssize_t n = read(fd, buffer, sizeof buffer);
      if (n <= 0) open = false;
      else to.append(buffer, static_cast<size_t>(n));
    };
    if (fds[0].revents) {
      read_from(out[0], out_open, outcome.out);
      if (out_open && options.on_output) options.on_output(child, outcome.out);
      if (out_open && outcome.out.size() >= options.close_output_after)
        close(std::exchange(out[0], -1)), out_open = false;
    }
    if (fds[1].revents) read_from(err[0], err_open, outcome.err);
    if (fds[2].revents) {
      const ssize_t n = write(in[1], left.data(), left.size());
      left = n < 0 ? std::string_view() : left.substr(static_cast<size_t>(n));
    }
  }
  close_in();
  for (int fd : {out[0], err[0]})
    if (fd >= 0) close(fd);
  int status = 0;
  waitpid(child, &status, 0);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

inline std::string source_path(const std::string& file) { return std::string(LINNET_SOURCE_DIR) + "/" + file; }

// A checkpoint with random weights of examples/configs/tiny.json, made once for the whole test program.
inline const std::string& tiny_checkpoint() {
  static const formats::ScratchFolder folder;
  static const std::string path = [] {
    const std::string dir = folder / "tiny";
    const Outcome made = linnet({"synth", "--config", source_path("examples/configs/tiny.json"), "--out", dir});
    if (made.status != 0) throw std::runtime_error("synth: " + made.err);
    return dir;
  }();
  return path;
}

// The program must end with this status, say one line that holds `text` on stderr, and nothing on stdout.
inline void expect_refusal(const Outcome& outcome, int status, const std::string& text) {
  EXPECT_EQ(outcome.status, status) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_TRUE(outcome.err.starts_with("linnet: ")) << outcome.err;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_NE(outcome.err.find(text), std::string::npos) << outcome.err;
}

}  // namespace linnet::cli
