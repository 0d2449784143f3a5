// Running the built program as its users do: a process with arguments, input, output and a status.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <algorithm>
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
  int64_t file_limit = -1;                                       // RLIMIT_FSIZE, bytes
  size_t close_output_after = SIZE_MAX;                          // stdout is closed once it has brought so many bytes
  std::string output_to;                                         // a file for stdout
  std::string environment;                                       // "NAME=value", added
  bool err_is_terminal = false;                                  // stderr is a terminal of its own
  std::function<void(pid_t, const std::string& out)> on_output;  // after each piece of stdout
};

// Our ends of the three streams of a child, and what has come so far. -1 = closed.
struct Child {
  pid_t id;
  int in, out, err;
  std::string_view input;  // not yet written
  Outcome outcome;
};

[[noreturn]] inline void become_program(std::vector<std::string>& args, const RunOptions& options) {
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

inline Child start(std::vector<std::string>& args, const RunOptions& options) {
  int in[2], out[2], err[2];
  const bool made = pipe(in) == 0 && pipe(out) == 0 &&
                    (options.err_is_terminal ? openpty(&err[0], &err[1], nullptr, nullptr, nullptr) : pipe(err)) == 0;
  if (!made) throw std::runtime_error("no pipe");
  const pid_t id = fork();
  if (id == 0) {
    dup2(in[0], STDIN_FILENO), dup2(out[1], STDOUT_FILENO), dup2(err[1], STDERR_FILENO);
    for (int fd : {in[0], in[1], out[0], out[1], err[0], err[1]}) close(fd);
    become_program(args, options);
  }
  for (int fd : {in[0], out[1], err[1]}) close(fd);
  fcntl(in[1], F_SETFL, O_NONBLOCK);
  return {.id = id, .in = in[1], .out = out[0], .err = err[0], .input = options.input};
}

inline void close_end(int& fd) {
  if (fd >= 0) close(std::exchange(fd, -1));
}

// Reads what is there; closes at the end of the stream (a terminal reports that as an error).
inline void take(int& fd, std::string& to) {
  char buffer[4096];
  const ssize_t n = read(fd, buffer, sizeof buffer);
  if (n <= 0) close_end(fd);
  else to.append(buffer, static_cast<size_t>(n));
}

// Waits for the child to take input or give output, and moves it. False when nothing happened for a minute.
inline bool move_bytes(Child& c, const RunOptions& options) {
  if (c.input.empty()) close_end(c.in);
  pollfd fds[] = {{c.out, POLLIN, 0}, {c.err, POLLIN, 0}, {c.in, POLLOUT, 0}};
  if (poll(fds, 3, 60'000) <= 0) return false;
  if (fds[0].revents) {
    take(c.out, c.outcome.out);
    if (c.out >= 0 && options.on_output) options.on_output(c.id, c.outcome.out);
    if (c.outcome.out.size() >= options.close_output_after) close_end(c.out);
  }
  if (fds[1].revents) take(c.err, c.outcome.err);
  if (fds[2].revents) {
    const ssize_t n = write(c.in, c.input.data(), c.input.size());
    c.input = n < 0 ? std::string_view() : c.input.substr(static_cast<size_t>(n));
  }
  return true;
}

// Runs the program and collects what it writes. A child that hangs is killed, and the test fails.
inline Outcome linnet(std::vector<std::string> args, const RunOptions& options = {}) {
  signal(SIGPIPE, SIG_IGN);
  Child child = start(args, options);
  while (child.out >= 0 || child.err >= 0) {
    if (move_bytes(child, options)) continue;
    ADD_FAILURE() << "the program hangs";
    kill(child.id, SIGKILL);
    break;
  }
  for (int* fd : {&child.in, &child.out, &child.err}) close_end(*fd);
  int status = 0;
  waitpid(child.id, &status, 0);
  child.outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return child.outcome;
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
