#include "cli/tokenize.h"

#include <cctype>
#include <charconv>

#include "cli/output.h"
#include "core/errors.h"
#include "core/text.h"
#include "formats/json_fields.h"
#include "formats/tokenizer.h"

namespace linnet::cli {
namespace {

using formats::Tokenizer;

// "[1,2,3]"
std::string array_text(const std::vector<int32_t>& ids) {
  std::string text = "[";
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) text += ',';
    text += std::to_string(ids[i]);
  }
  return text + "]";
}

// Whole numbers between anything that is no part of a number: "1 2 3", "[1, 2, 3]", one a line.
std::vector<int32_t> parse_ids(std::string_view text) {
  std::vector<int32_t> ids;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (std::isspace(static_cast<unsigned char>(c)) || c == ',' || c == '[' || c == ']') {
      ++at;
      continue;
    }
    int32_t id = 0;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), id);
    if (error != std::errc() || id < 0)
      throw InvalidArgument(cat("--decode: byte ", at, ": expected a token id, got ", printable(text.substr(at), 20)));
    ids.push_back(id);
    at = static_cast<size_t>(end - text.data());
  }
  return ids;
}

int run_jsonl(const Tokenizer& tokenizer, formats::SpecialPolicy policy, bool count) {
  LineReader lines;
  for (int64_t number = 1;; ++number) {
    const std::optional<std::string> line = lines.next().text;
    if (!line) return 0;
    const std::string text = formats::JsonFields::parse(*line, cat("stdin: line ", number)).string("text");
    const std::vector<int32_t> ids = tokenizer.encode(text, policy);
    print(count ? cat(ids.size(), "\n") : array_text(ids) + "\n");
  }
}

}  // namespace

int run_tokenize(const TokenizeArgs& args) {
  const Tokenizer tokenizer = Tokenizer::load(args.model);
  const auto policy = args.parse_specials ? formats::SpecialPolicy::parse : formats::SpecialPolicy::as_text;
  if (args.jsonl) return run_jsonl(tokenizer, policy, args.count);
  const std::string input = read_text(args.input, "tokenize");
  if (args.decode) {
    print(tokenizer.decode(parse_ids(input)));
    return 0;
  }
  const std::vector<int32_t> ids = tokenizer.encode(input, policy);
  if (args.count) {
    print(cat(ids.size(), "\n"));
  } else if (args.show) {
    std::string table;
    for (int32_t id : ids) table += cat(id, "\t", printable(tokenizer.bytes_of(id), 400), "\n");
    print(table);
  } else {
    print(array_text(ids) + "\n");
  }
  return 0;
}

}  // namespace linnet::cli
