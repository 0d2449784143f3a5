#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::train {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = ".linnet-", kReplaced = ".linnet-replaced-", kRemoved = ".linnet-removed-";
constexpr const char* kLock = ".linnet.lock";
constexpr const char* kLastWritten = "trainer.json";  // any file that every checkpoint has

// The step of "step-00001234"; none for other names.
std::optional<int64_t> step_of(std::string_view name) {
  constexpr std::string_view kStep = "step-";
  if (!name.starts_with(kStep)) return std::nullopt;
  const std::string digits(name.substr(kStep.size()));
  if (digits.size() < 8 || digits.size() > 18 || digits.find_first_not_of("0123456789") != digits.npos)
    return std::nullopt;
  const int64_t step = std::stoll(digits);
  return checkpoint_name(step) == name ? std::optional(step) : std::nullopt;
}

void rename_folder(const fs::path& from, const fs::path& to) {
  if (rename(from.c_str(), to.c_str()) != 0) formats::throw_io_error(to, "cannot rename", errno);
}

void sync_folder(const fs::path& folder) {
  const formats::FileDescriptor descriptor(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!descriptor) formats::throw_io_error(folder, "cannot open", errno);
  if (fsync(descriptor.get()) != 0 && errno != EINVAL) formats::throw_io_error(folder, "cannot bring to disk", errno);
}

// Out of sight under one rename, then file by file: a kill in between leaves no half of a checkpoint under its name.
void remove_folder(const fs::path& run_folder, const fs::path& checkpoint) {
  const fs::path hidden = run_folder / cat(kRemoved, checkpoint.filename().string());
  std::error_code ignored;
  fs::remove_all(hidden, ignored);
  if (rename(checkpoint.c_str(), hidden.c_str()) == 0) fs::remove_all(hidden, ignored);
}

// A checkpoint that was to be replaced goes back when its successor did not arrive; anything else unfinished goes.
void put_right(const fs::path& run_folder) {
  std::vector<fs::path> left;
  std::error_code error, ignored;
  for (fs::directory_iterator it(run_folder, error), end; !error && it != end; it.increment(error))
    if (it->path().filename().string().starts_with(kPrefix)) left.push_back(it->path());
  if (error) formats::throw_io_error(run_folder, "cannot list", error.value());
  for (const fs::path& path : left) {
    const std::string name = path.filename().string();
    if (name.starts_with(kReplaced)) {
      const fs::path back = run_folder / name.substr(kReplaced.size());
      if (!fs::exists(back, ignored)) {
        rename_folder(path, back);
        continue;
      }
    }
    fs::remove_all(path, ignored);
  }
  sync_folder(run_folder);
}

}  // namespace

RunFolder::RunFolder(fs::path path) : path_(std::move(path)) {
  std::error_code error;
  fs::create_directories(path_, error);
  if (error) formats::throw_io_error(path_, "cannot create the folder", error.value());
  const fs::path file = path_ / kLock;
  lock_ = formats::FileDescriptor(open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (!lock_) formats::throw_io_error(file, "cannot open", errno);
  if (flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      throw InvalidArgument(cat(path_.string(), ": expected a folder that no run is using, got one that another uses"));
    formats::throw_io_error(file, "cannot lock", errno);
  }
  put_right(path_);
}

std::string checkpoint_name(int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return name;
}

std::vector<SavedCheckpoint> list_checkpoints(const fs::path& run_folder) {
  std::vector<SavedCheckpoint> found;
  std::error_code error;
  for (fs::directory_iterator it(run_folder, error), end; !error && it != end; it.increment(error))
    if (const auto step = step_of(it->path().filename().string()); step && fs::exists(it->path() / kLastWritten, error))
      found.push_back({it->path(), *step});
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return found;
}

std::optional<SavedCheckpoint> latest_checkpoint(const fs::path& run_folder) {
  const std::vector<SavedCheckpoint> found = list_checkpoints(run_folder);
  return found.empty() ? std::nullopt : std::optional(found.back());
}

SavedCheckpoint find_checkpoint(const fs::path& path) {
  const fs::path itself = path.has_filename() ? path : path.parent_path();  // "run/step-00000010/"
  std::error_code ignored;
  if (const auto step = step_of(itself.filename().string()); step && fs::exists(itself / kLastWritten, ignored))
    return {itself, *step};
  if (const auto latest = latest_checkpoint(path)) return *latest;
  throw FormatError(cat(path.string(), ": expected a training checkpoint or a folder of some, got neither"));
}

void put_in_place(const RunFolder& folder, const fs::path& fresh, int64_t step) {
  const fs::path target = folder.path() / checkpoint_name(step);
  const fs::path replaced = folder.path() / cat(kReplaced, checkpoint_name(step));
  sync_folder(fresh);
  std::error_code ignored;
  const bool replaces = fs::exists(target, ignored);
  if (replaces) rename_folder(target, replaced);
  try {
    rename_folder(fresh, target);
  } catch (...) {
    if (replaces) rename(replaced.c_str(), target.c_str());
    throw;
  }
  sync_folder(folder.path());
  if (replaces) fs::remove_all(replaced, ignored);
}

void remove_old_checkpoints(const RunFolder& folder, int64_t step, int64_t keep) noexcept try {
  std::vector<SavedCheckpoint> others = list_checkpoints(folder.path());
  others.erase(std::remove_if(others.begin(), others.end(), [&](const auto& c) { return c.step == step; }),
               others.end());
  for (size_t i = 0; i < others.size() && static_cast<int64_t>(others.size() - i) >= keep; ++i)
    remove_folder(folder.path(), others[i].path);
} catch (...) {  // the new one is safe; the next save tries again
}

}  // namespace linnet::train
