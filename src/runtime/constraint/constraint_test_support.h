// For the tests of this folder: a vocabulary with pieces of JSON, texts drawn from a constraint, and a validator of schemas.
#pragma once

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "core/rng.h"
#include "formats/tokenizer.h"
#include "runtime/constraint/constraint.h"

namespace linnet::runtime {

// The 256 bytes, and pieces that begin, end and cross every part of JSON.
inline const formats::Tokenizer& json_tokenizer() {
  static const formats::Tokenizer tokenizer = [] {
    const std::vector<std::string> parts = {"{",   "}",        "[",     "]",        "\"",       ":",    ",",   " ",
                                            "\n",  "\t",       "0",     "1",        "27",       "-",    ".",   "e+",
                                            "E",   "true",     "false", "null",     "tr",       "ue",   "nu",  "\\",
                                            "\\u", "00e9",     "d83d",  "\\ude00",  "n",        "a",    "b",   "name",
                                            "é",   "\xe4\xb8", "\xad",  "\xf0\x9f", "\x98\x80", "\x7f", "\x01"};
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    std::set<std::string> known(tokens.begin(), tokens.end());
    Rng rng(1);
    while (tokens.size() < 3000) {
      std::string piece;
      for (uint64_t n = 1 + rng.bits() % 4; n > 0; --n) piece += parts[rng.bits() % parts.size()];
      if (known.insert(piece).second) tokens.push_back(piece);
    }
    formats::RankTable ranks = formats::RankTable::parse(formats::ranks_file_text(tokens), "test");
    const auto first = ranks.size();
    return formats::Tokenizer(std::move(ranks), formats::SpecialTokens::kimi(first));
  }();
  return tokenizer;
}

inline const std::shared_ptr<const TokenTrie>& json_trie() {
  static const auto trie = std::make_shared<const TokenTrie>(json_tokenizer(), json_tokenizer().vocab_size());
  return trie;
}

inline int32_t end_id() { return json_tokenizer().special_id("<|im_end|>").value(); }

inline Constraint schema_constraint(const std::string& schema) {
  return Constraint::json_schema(schema, "test", json_trie(), {end_id()});
}
inline Constraint object_constraint() { return Constraint::json_object(json_trie(), {end_id()}); }

inline std::vector<int32_t> allowed(const Constraint& constraint, int64_t bytes_left = Constraint::kUnlimited) {
  std::vector<uint64_t> bits(constraint.n_words());
  constraint.mask(bits, bytes_left);
  std::vector<int32_t> out;
  for (int32_t id = 0; id < json_tokenizer().vocab_size(); ++id)
    if (bits[static_cast<size_t>(id) / 64] >> (id % 64) & 1) out.push_back(id);
  return out;
}

inline bool accepts(Constraint constraint, int32_t token) {  // a copy
  try {
    constraint.accept(token);
  } catch (const Error&) { return false; }
  return true;
}

// Says `text` byte for byte.
inline Constraint after(Constraint constraint, const std::string& text) {
  for (char byte : text) constraint.accept(json_tokenizer().ranks().rank_of_byte(static_cast<uint8_t>(byte)));
  return constraint;
}

}  // namespace linnet::runtime
