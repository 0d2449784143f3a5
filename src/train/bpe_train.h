// Byte-pair encoding learnt from counted pieces.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/function_ref.h"
#include "train/piece_counts.h"

namespace linnet::train {

struct BpeTrainOptions {
  int64_t n_tokens = 0;   // of the result, the 256 bytes included; >= 256
  int64_t min_count = 2;  // a string that occurs more rarely becomes no token: training then ends early
};

// Token i is the byte i for i < 256. Then, again and again: every piece is cut into tokens as formats::append_bpe cuts it; of the byte
// strings that two adjacent tokens make, each occurrence counted, the one with the highest count becomes the next token; of
// equal counts, the string that comes first in byte order. (Counting strings and not pairs of tokens, two ways to one string are one
// token, which a ranks file demands.) The result depends on the counts alone, not on their order.
// Counts are taken over: they are empty afterwards. progress(tokens, n_tokens) is called now and then.
// Throws InvalidArgument for n_tokens < 256 or min_count < 1.
std::vector<std::string> train_bpe(PieceCounts&& counts, const BpeTrainOptions& options,
                                   FunctionRef<void(int64_t, int64_t)> progress);

}  // namespace linnet::train
