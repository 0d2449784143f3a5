// Tokenizer against outside answers (tests/data/tokenizer), and its own laws: round trip, special tokens, slices, streaming.
#include "formats/tokenizer.h"

#include <gmock/gmock.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/rng.h"

namespace linnet::formats {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kData = std::string(LINNET_SOURCE_DIR) + "/tests/data/tokenizer/";

const Tokenizer& cl100k() {
  static const Tokenizer tokenizer = Tokenizer::load_ranks_file(kData + "ranks.tiktoken");
  return tokenizer;
}

TEST(tokenizer, equals_the_outside_answers) {
  std::ifstream in(kData + "cases.jsonl");
  int n = 0;
  for (std::string line; std::getline(in, line); ++n) {
    const json c = json::parse(line);
    const std::string text = c["text"];
    const std::vector<TokenId> ids = cl100k().encode(text);
    EXPECT_EQ(ids, c["ids"].get<std::vector<TokenId>>()) << "case " << n << ": " << text.substr(0, 60);
    EXPECT_EQ(cl100k().decode(ids), text);
  }
  EXPECT_EQ(n, 182);
}

}  // namespace
}  // namespace linnet::formats
