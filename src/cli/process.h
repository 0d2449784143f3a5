// What the system knows about this process, and a run of the program as its own child.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace linnet::cli {

struct ResidentMemory {
  int64_t peak = 0, anonymous = 0, file = 0;  // bytes: VmHWM, RssAnon, RssFile; 0 where the system does not say
};
ResidentMemory resident_memory();
void reset_peak_memory();  // the peak starts anew from what is resident now

// Starts this program with the given arguments and returns the seconds until its first byte on stdout, or until it ended when it wrote
// none. Nothing when it could not be started or failed.
std::optional<double> seconds_to_first_output(const std::vector<std::string>& args);

}  // namespace linnet::cli
