// The folder of one run: who owns it, and which checkpoints it holds. Names with which a run works inside it:
//   step-00001234         a checkpoint, complete: the name appears by a rename
//   .linnet-*             being written, replaced or removed; what killed processes left is put right by the next owner
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "formats/posix_file.h"

namespace linnet::train {

// One process owns a folder. The constructor creates it, throws InvalidArgument when another living process has it, and removes what
// killed ones left behind. Released by the destructor, and by the system when the process dies. Throws IoError.
class RunFolder {
 public:
  explicit RunFolder(std::filesystem::path path);
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  formats::FileDescriptor lock_;
};

struct SavedCheckpoint {
  std::filesystem::path path;
  int64_t step;
};

std::string checkpoint_name(int64_t step);  // "step-00001234"

std::vector<SavedCheckpoint> list_checkpoints(
    const std::filesystem::path& run_folder);  // ascending; none without a folder
std::optional<SavedCheckpoint> latest_checkpoint(const std::filesystem::path& run_folder);
// A checkpoint's own folder, or the latest of a run's. Throws FormatError when it is neither.
SavedCheckpoint find_checkpoint(const std::filesystem::path& checkpoint_or_run_folder);

// For save_checkpoint(). `fresh` becomes the checkpoint of `step`, instead of one that there is already: whenever the process is
// killed, one of the two is there or comes back with the next owner. Throws IoError.
void put_in_place(const RunFolder& folder, const std::filesystem::path& fresh, int64_t step);
// Removes the oldest until `keep` remain, never that of `step`. What cannot be removed stays.
void remove_old_checkpoints(const RunFolder& folder, int64_t step, int64_t keep) noexcept;

}  // namespace linnet::train
