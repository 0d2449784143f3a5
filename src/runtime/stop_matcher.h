// StopMatcher: stop strings in a text that arrives in pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace linnet::runtime {

// Holds back text that may be the beginning of a stop string.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);  // throws InvalidArgument for an empty one
  // Text that is now certain. After a stop string has been found, stopped() is true and nothing more comes.
  std::string push(std::string_view text);
  std::string flush();  // the end: what was held back
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace linnet::runtime
