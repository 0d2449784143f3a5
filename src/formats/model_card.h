// linnet.json of a model folder: what the model can do, in words for people, and prompts to try.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace linnet::formats {

struct ModelCard {
  std::string description;  // "" when the folder has no such file
  struct Example {
    std::string title;  // what a button says; "" = the prompt itself
    std::string prompt;
  };
  std::vector<Example> examples;

  // {"description": "...", "examples": [{"title": "...", "prompt": "..."}, ...]}; titles may be left out. An absent file is an
  // empty card; throws FormatError for a malformed one.
  static ModelCard load(const std::filesystem::path& folder);
};

}  // namespace linnet::formats
