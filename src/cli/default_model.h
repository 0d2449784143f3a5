// The model that commands use when --model is not given.
#pragma once

#include <filesystem>
#include <optional>

namespace linnet::cli {

// $LINNET_MODEL if it is set (what it names need not exist: opening it says so). Else the first that holds a config.json of
// ../share/linnet/models/default and ../../models/default beside the program's folder: an installed program's, a build tree's.
std::optional<std::filesystem::path> default_model();

}  // namespace linnet::cli
