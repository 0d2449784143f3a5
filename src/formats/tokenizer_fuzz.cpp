// Any bytes through the tokenizer: decode(encode(x)) == x under both policies, no control token from text, and the
// streaming decoder equal to the whole text repaired.
#include <algorithm>

#include "formats/tokenizer.h"
#include "formats/utf8.h"

namespace {

using namespace linnet::formats;

const Tokenizer& tokenizer() {
  static const Tokenizer t(RankTable::parse(ranks_file_text(letter_vocabulary(3000)), "ranks"),
                           SpecialTokens::kimi(3000));
  return t;
}

void check(bool law) {
  if (!law) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::vector<TokenId> as_text = tokenizer().encode(text);
  check(std::none_of(as_text.begin(), as_text.end(), [](TokenId id) { return tokenizer().is_special(id); }));
  check(tokenizer().decode(as_text) == text);
  check(tokenizer().decode(tokenizer().encode(text, SpecialPolicy::parse)) == text);

  StreamDecoder decoder(tokenizer());
  std::string streamed;
  for (TokenId id : as_text) streamed += decoder.push(id);
  check(streamed + decoder.flush() == to_valid_utf8(text));
  return 0;
}
