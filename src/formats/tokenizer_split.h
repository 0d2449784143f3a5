// The cuts before byte-pair encoding: a text into slices, and well-formed text into the pieces of Kimi's pattern.
#pragma once

#include <memory>
#include <string_view>

#include "core/function_ref.h"

namespace linnet::formats {

// Calls slice(part) for the parts of text, in order, that Kimi's tokenizer class encodes one by one: at most 400,000
// characters each, and cut before the 25,001st character of a run of white space or of other characters. Results differ from
// those of an uncut text only there. A byte that is part of no well-formed character counts as one character, not white space.
void for_each_slice(std::string_view text, FunctionRef<void(std::string_view)> slice);

// The pre-tokeniser pattern, compiled. Threads may share one. Characters are classed by PCRE2's Unicode version (14 in PCRE2
// 10.42): what a later version assigns is a symbol here, and U+0295, which 16 moved from Ll to Lo, is lower case.
class PreTokenizer {
 public:
  PreTokenizer();
  // Calls piece(part) for the pieces of text, which is well-formed UTF-8, in order; together they are the text.
  void for_each_piece(std::string_view text, FunctionRef<void(std::string_view)> piece) const;

 private:
  std::shared_ptr<const void> code_;  // pcre2_code
};

}  // namespace linnet::formats
