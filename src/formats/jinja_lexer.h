// Template source to tokens, white space already as Hugging Face asks for it (trim_blocks, lstrip_blocks).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/jinja_text.h"

namespace linnet::formats::jinja {

enum class TokenKind { data, output_begin, output_end, block_begin, block_end, name, string, integer, real, op, end };

struct Token {
  TokenKind kind = TokenKind::end;
  int line = 1, column = 1;
  Text text;  // data; content of a string; name; operator; digits without underscores
  bool is(TokenKind k, TextView t) const { return kind == k && text == t; }
};

// The last token is `end`. Throws FormatError "NAME:LINE:COLUMN: expected .., got ..".
std::vector<Token> tokens_of(const std::string& name, std::string_view source);

}  // namespace linnet::formats::jinja
