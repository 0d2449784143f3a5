// Byte-pair encoding of one piece.
#pragma once

#include <string_view>
#include <vector>

#include "formats/tokenizer_ranks.h"

namespace linnet::formats {

// Appends the tokens of piece: the piece itself where it is a token; else its bytes, of which the adjacent pair whose
// concatenation has the lowest rank (the leftmost such pair) is merged until no concatenation is a token.
void append_bpe(const RankTable& ranks, std::string_view piece, std::vector<TokenId>& out);

}  // namespace linnet::formats
