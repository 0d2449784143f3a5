// A disk that is slow at will, for tests: preloaded into a program, its first fsync begins by waiting until somebody has opened the pipe
// (mkfifo) that LINNET_SLOW_DISK names for writing, and closed it.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

extern "C" int fsync(int fd) {
  static std::atomic<bool> waited{false};
  const char* const path = getenv("LINNET_SLOW_DISK");
  const int pipe = path && !waited.exchange(true) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  char byte;
  while (pipe >= 0 && read(pipe, &byte, 1) > 0) {}
  if (pipe >= 0) close(pipe);
  return fdatasync(fd);
}
