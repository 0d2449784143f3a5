// linnet train: trains the models of a configuration file.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace linnet::cli {

struct TrainArgs {
  std::filesystem::path config;
  std::vector<std::string> set;  // "key.path=value"
  bool resume = false;
  bool describe = false;  // print the fields of the configuration instead
  int threads = -1;       // -1: as the configuration says
  bool trace = false;     // print at the end where the time of the steps went
};

int run_train(const TrainArgs& args);

}  // namespace linnet::cli
