#include "core/trace.h"

#include <algorithm>
#include <string_view>

namespace linnet {

void Trace::add(const char* name, double seconds) {
  const auto same = [&](const Entry& e) { return std::string_view(e.name) == name; };
  auto entry = std::find_if(entries_.begin(), entries_.end(), same);
  if (entry == entries_.end()) entry = entries_.insert(entry, {.name = name});
  ++entry->calls;
  entry->seconds += seconds;
}

double Trace::seconds(const char* name) const {
  for (const Entry& e : entries_)
    if (std::string_view(e.name) == name) return e.seconds;
  return 0;
}

}  // namespace linnet
