// The table of a Trace that people read: where the time of some work went.
#pragma once

#include <span>
#include <string>

#include "core/trace.h"

namespace linnet::cli {

// A row for each part, the longest first, and what is left of `seconds`. The parts must not overlap.
std::string trace_table(std::span<const Trace::Entry> parts, double seconds);

}  // namespace linnet::cli
