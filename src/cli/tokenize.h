// linnet tokenize: text to token ids and back.
#pragma once

#include <filesystem>

#include "cli/input.h"

namespace linnet::cli {

struct TokenizeArgs {
  std::filesystem::path model;  // needs only the tokenizer's files
  TextSource input;
  bool jsonl = false;           // stdin: lines {"text": ...}; stdout: a JSON array of ids for each
  bool decode = false;          // input is ids; output the text
  bool parse_specials = false;  // names of control tokens in the text are control tokens
  bool count = false;           // only the number of tokens
  bool show = false;            // one token a line: id and its bytes
};

int run_tokenize(const TokenizeArgs& args);

}  // namespace linnet::cli
